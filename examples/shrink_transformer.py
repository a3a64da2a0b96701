"""Shrink a small language model: whole heads, MLP neurons and channels of the residual stream.

It reads English, the text of Python's own help, character by character. The group lasso over the groups that
``structures.trace`` finds makes units exactly zero, ``compact`` cuts them out, and training goes on with the
smaller parameters, the sliced state of the same optimizer and the replayed function.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pydoc_data import topics
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from common import BLUE, GREEN, GREY, new_figure, parser, print_table, save

import jaxreg

LAYERS, WIDTH, HEADS, HEAD_WIDTH, NEURONS = 2, 96, 6, 16, 256
BATCH, CONTEXT = 16, 64


class LanguageModel(nn.Module):
    vocabulary: int

    @nn.compact
    def __call__(self, characters: jax.Array) -> jax.Array:
        x = nn.Embed(self.vocabulary, WIDTH, name="characters")(characters)
        x = x + self.param("positions", nn.initializers.normal(0.02), (CONTEXT, WIDTH))
        causal = nn.make_causal_mask(characters)
        for layer in range(LAYERS):
            y = nn.LayerNorm(name=f"norm{layer}")(x)
            attention = nn.MultiHeadDotProductAttention(
                HEADS, qkv_features=HEADS * HEAD_WIDTH, name=f"attention{layer}"
            )
            x = x + attention(y, mask=causal)
            y = nn.LayerNorm(name=f"mlp_norm{layer}")(x)
            y = nn.gelu(nn.Dense(NEURONS, name=f"neurons{layer}")(y))
            x = x + nn.Dense(WIDTH, name=f"mlp_out{layer}")(y)
        return nn.Dense(self.vocabulary, name="logits")(nn.LayerNorm(name="last_norm")(x))


class Text(NamedTuple):
    train: np.ndarray  # codes of characters
    test: np.ndarray
    alphabet: list[str]


def help_text(share: float = 1.0) -> Text:
    joined = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    joined = joined.encode("ascii", "ignore").decode()
    alphabet, codes = np.unique(list(joined[: int(share * len(joined))]), return_inverse=True)
    border = int(0.9 * len(codes))
    return Text(codes[:border].astype(np.int32), codes[border:].astype(np.int32), alphabet.tolist())


def windows(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    starts = random.integers(len(codes) - CONTEXT, size=BATCH)
    return codes[starts[:, None] + np.arange(CONTEXT + 1)]


def loss(apply: Callable[..., Any], params: Any, batch: jax.Array) -> jax.Array:
    logits = apply(params, batch[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()


class Run(NamedTuple):
    params: Any
    opt_state: Any
    history: list[tuple[int, float]]  # steps, and nats per character of text that was not trained on


class Trainer:
    def __init__(self, text: Text, seed: int, progress: Any):
        self.text, self.seed, self.progress = text, seed, progress
        fixed = np.random.default_rng(0)  # the same windows, whatever the seed
        self.test_batches = [windows(text.test, fixed) for _ in range(16)]

    def fit(
        self,
        name: str,
        apply: Callable[..., Any],
        optimizer: optax.GradientTransformation,
        start: Run,
        steps: int,
    ) -> Run:
        train_step, test_loss = functions(apply, optimizer)
        params, state = jax.tree.map(jnp.array, (start.params, start.opt_state))  # the copy is donated
        begun = start.history[-1][0] if start.history else 0
        history = list(start.history)
        random = np.random.default_rng([self.seed, begun])
        self.progress.set_description(name)
        for number in range(begun, begun + steps + 1):
            if (number - begun) % max(steps // 6, 1) == 0 or number == begun + steps:
                losses = [float(test_loss(params, batch)) for batch in self.test_batches]
                history.append((number, sum(losses) / len(losses)))
            if number < begun + steps:
                params, state = train_step(params, state, windows(self.text.train, random))
                self.progress.update()
        return Run(params, state, history)


@functools.cache  # the second part of the dense training compiles nothing anew
def functions(apply: Callable[..., Any], optimizer: optax.GradientTransformation) -> tuple[Any, Any]:
    def train_step(params: Any, state: Any, batch: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(loss, argnums=1)(apply, params, batch)
        return jaxreg.step(optimizer, grads, state, params)

    return jax.jit(train_step, donate_argnums=(0, 1)), jax.jit(functools.partial(loss, apply))


def sizes(variables: Any) -> dict[str, int]:
    """What a person would call the widths of the network."""
    params = variables["params"]
    layers = range(LAYERS)
    found = {"channels": params["characters"]["embedding"].shape[1]}
    found |= {f"heads {i + 1}": params[f"attention{i}"]["query"]["kernel"].shape[1] for i in layers}
    return found | {f"neurons {i + 1}": params[f"neurons{i}"]["kernel"].shape[1] for i in layers}


def count(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def paired_timing(dense: Callable[[], Any], compact: Callable[[], Any], repeats: int) -> np.ndarray:
    """Seconds of both, a row per pair: each pair is timed at one moment."""
    for function in (dense, compact):
        jax.block_until_ready(function())  # compile
    seconds = np.zeros((repeats, 2))
    for row in seconds:
        for place, function in enumerate((dense, compact)):
            began = time.perf_counter()
            jax.block_until_ready(function())
            row[place] = time.perf_counter() - began
    return seconds


def continuation(apply: Callable[..., Any], params: Any, text: Text, prompt: str, length: int) -> str:
    """The characters that the model finds likeliest, one by one."""
    codes = [text.alphabet.index(character) for character in prompt]
    predict = jax.jit(apply)
    for _ in range(length):
        seen = codes[-CONTEXT:]
        window = np.zeros((BATCH, CONTEXT), np.int32)
        window[0, : len(seen)] = seen
        codes.append(int(predict(params, window)[0, len(seen) - 1].argmax()))
    return "".join(text.alphabet[code] for code in codes)


def draw(dense: Run, sparse: Run, tuned: Run, milliseconds: Any, output: Any) -> None:
    figure = new_figure(9.6, 3.6)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.1, 1.2, 0.5])

    before, after = sizes(dense.params), sizes(tuned.params)
    rows = np.arange(len(before))[::-1]
    left.barh(rows, np.ones(len(rows)), color=GREY, alpha=0.35)
    left.barh(rows, [after[name] / before[name] for name in before], color=BLUE)
    for row, name in zip(rows, before, strict=True):
        text = f"{after[name]} of {before[name]}"
        left.annotate(text, (1, row), (5, 0), "data", "offset points", va="center")
    left.set(yticks=rows, yticklabels=list(before), xticks=[], xlim=(0, 1.35), title="What is left")

    middle.plot(*zip(*dense.history, strict=True), color=GREY, label="dense")
    middle.plot(*zip(*tuned.history, strict=True), color=BLUE, label="group lasso")
    border = sparse.history[-1][0]
    middle.axvspan(border, tuned.history[-1][0], color=GREEN, alpha=0.12, lw=0)
    middle.annotate(
        "compact", (border, 1), (4, -4), ("data", "axes fraction"), "offset points", color=GREEN, va="top"
    )
    middle.set(xlabel="step", title="Test loss (nats per character)", ylim=(None, 3.0))
    middle.legend(loc="upper center")

    right.bar(["dense", "compact"], milliseconds, color=[GREY, BLUE], width=0.6)
    right.set(title="Forward pass (ms)")
    save(figure, output, "shrink_transformer.png")


def coupled_penalty(graph: Any, strength: float) -> jaxreg.Penalty:
    """Whole heads, neurons and channels; a channel is in every layer, and goes only under a stronger pull."""
    [channels] = [group for group in graph.groups if group.size == WIDTH]
    others = [group for group in graph.groups if group is not channels]
    mask = jaxreg.masks.path(*(member.path for member in channels.members if member.role == "produces"))
    return jaxreg.group_lasso(3 * strength, graph.only([channels]), mask=mask) + jaxreg.group_lasso(
        strength, graph.only(others), mask=~mask
    )


def main(args: argparse.Namespace) -> None:
    dense_steps, steps, tuning_steps = args.dense_steps, args.steps, args.tuning_steps
    strength, repeats, share = args.strength, 40, 1.0
    if args.quick:  # fewer steps, so that a stronger penalty is needed to reach the zeros
        dense_steps, steps, tuning_steps, strength, repeats, share = 10, 30, 10, 20 * strength, 5, 0.3
    text = help_text(share)
    ids = text.train[: BATCH * CONTEXT].reshape(BATCH, CONTEXT)
    with tqdm.tqdm(total=dense_steps + 2 * (steps + tuning_steps), unit="step") as progress:
        trainer = Trainer(text, args.seed, progress)
        model = LanguageModel(len(text.alphabet))
        params = jax.jit(model.init)(jax.random.key(args.seed), ids)
        graph = jaxreg.structures.trace(model.apply, params, ids)

        total = dense_steps + steps + tuning_steps
        adam = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 3e-3, dense_steps // 8, total))
        begun = trainer.fit("dense", model.apply, adam, Run(params, adam.init(params), []), dense_steps)
        dense = trainer.fit("dense", model.apply, adam, begun, steps + tuning_steps)

        rate = optax.cosine_decay_schedule(2e-3, steps + tuning_steps, alpha=0.05)
        shrink = jaxreg.prox_adam(rate, coupled_penalty(graph, strength))
        start = Run(begun.params, shrink.init(begun.params), begun.history)
        sparse = trainer.fit("group lasso", model.apply, shrink, start, steps)

        small = jaxreg.compact(graph, sparse.params, opt_state=sparse.opt_state, inputs=(ids,))
        # The same optimizer without a penalty, so that the sliced state fits: count and moments go on. The
        # function is the recorded one, not a module of the new widths: LayerNorm divides by the number of
        # channels, and that must stay what it was.
        tune = jaxreg.prox_adam(rate, jaxreg.l1(0.0))
        start = Run(small.params, small.opt_state, sparse.history)
        tuned = trainer.fit("tuning", small.apply, tune, start, tuning_steps)

    large_logits = jax.jit(model.apply)(sparse.params, ids)
    small_logits = jax.jit(small.apply)(small.params, ids)
    run_dense, run_small = jax.jit(model.apply), jax.jit(small.apply)
    seconds = paired_timing(lambda: run_dense(params, ids), lambda: run_small(small.params, ids), repeats)
    milliseconds = 1e3 * np.median(seconds, axis=0)

    print(small.report)
    networks = [("dense", dense), ("with zeros", sparse), ("compact, trained on", tuned)]
    print_table(
        ["network", "parameters", "nats per character"],
        [[name, f"{count(run.params):,}", f"{run.history[-1][1]:.3f}"] for name, run in networks],
    )
    faster = float(np.median(seconds[:, 0] / seconds[:, 1]))
    gone = 1 - count(small.params) / count(params)
    print(f"\n{100 * gone:.1f} % of the parameters gone, forward pass {faster:.1f} times as fast.")
    print(f"Largest difference to the network with zeros: {np.abs(large_logits - small_logits).max():.1e}.")
    for refusal in small.refused:
        print(f"Kept although zero: {refusal}")
    print(f"\nIt continues: {continuation(small.apply, tuned.params, text, 'The ', 80)!r}")
    draw(dense, sparse, tuned, milliseconds, args.output)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument(
        "--strength", type=float, default=1.5e-4, help="of the penalty, in units of the loss"
    )
    options.add_argument("--dense-steps", type=int, default=800, help="of training before the penalty")
    options.add_argument("--steps", type=int, default=1000, help="of training with the penalty")
    options.add_argument("--tuning-steps", type=int, default=600, help="of training after the removal")
    main(options.parse_args())
