"""Exact zeros in a multi-layer perceptron on digits: what each way of adding L1 does at one strength.

Adam and SGD with momentum: without a penalty; with L1 added to the loss; followed by a prox with the
learning rate, at this strength and at the multiple of it that makes about as many zeros as the next;
and in their proximal form. The strength is chosen by cross-validation on the training images alone: the
smallest at which both proximal forms zero three quarters of the weights. Every number is a mean over
networks from different initial weights, which jax.vmap trains side by side.
"""

import argparse
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from common import BLUE, GREEN, GREY, ORANGE, digits, new_figure, parser, print_table, save

import jaxreg

WEIGHTS = jaxreg.masks.name("kernel")  # not the biases
BATCH = 128
WANTED = 0.75  # share of exact zeros
PLAIN = "plain prox"
STYLE = {
    "no penalty": (GREY, "s"),
    "L1 in the loss": (GREEN, "x"),
    PLAIN: (ORANGE, "v"),
    "proximal form": (BLUE, "o"),
}


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(256)(x))
        x = nn.relu(nn.Dense(128)(x))
        return nn.Dense(10)(x)


class Base(NamedTuple):
    """An optimizer, with and without a prox of its own."""

    rate: float
    plain: Callable[[Any], optax.GradientTransformation]
    proximal: Callable[[Any, jaxreg.Penalty], optax.GradientTransformation]
    multiple: float
    """Of the strength, with which the plain prox makes about as many zeros."""


BASES = {
    "adam": Base(5e-3, optax.adam, jaxreg.prox_adam, 250.0),
    "sgd, momentum 0.9": Base(
        0.1,
        functools.partial(optax.sgd, momentum=0.9),
        functools.partial(jaxreg.prox_sgd, momentum=0.9),
        10.0,
    ),
}


class Split(NamedTuple):
    """For each network its batches (rows of the training images), and what to test it on."""

    batches: np.ndarray
    x: np.ndarray
    y: np.ndarray


class Outcome(NamedTuple):
    """For each network the share of weights that are exactly 0, and its accuracy."""

    zeros: np.ndarray
    accuracy: np.ndarray


def optimizer_for(base: str, kind: str, strength: Any, steps: int) -> optax.GradientTransformation:
    chosen, penalty = BASES[base], jaxreg.l1(strength, mask=WEIGHTS)
    rate = optax.cosine_decay_schedule(chosen.rate, steps)
    if kind == "no penalty":
        return chosen.plain(rate)
    if kind == "L1 in the loss":
        return optax.chain(jaxreg.add_penalty(penalty), chosen.plain(rate))
    if kind == PLAIN:
        return optax.chain(chosen.plain(rate), jaxreg.proximal(penalty, rate))
    return chosen.proximal(rate, penalty)


# The strength is an argument like any other: one compilation serves all of them.
@functools.partial(jax.jit, static_argnames=("base", "kind"))
def train(
    base: str, kind: str, strengths: jax.Array, start: Any, x: jax.Array, y: jax.Array, split: Split
) -> Outcome:
    """All strengths times all networks at once; the results are of that shape."""
    model = MLP()

    def one(strength: jax.Array, params: Any, split: Split) -> Outcome:
        optimizer = optimizer_for(base, kind, strength, len(split.batches))

        def loss(params: Any, batch: jax.Array) -> jax.Array:
            logits = model.apply(params, x[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

        def train_step(carry: tuple[Any, Any], batch: jax.Array) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            return jaxreg.step(optimizer, jax.grad(loss)(params, batch), state, params), None

        (params, _), _ = jax.lax.scan(train_step, (params, optimizer.init(params)), split.batches)
        kernels = {name: layer["kernel"] for name, layer in params["params"].items()}
        accuracy = jnp.mean(model.apply(params, split.x).argmax(-1) == split.y)
        return Outcome(jaxreg.sparsity(kernels), accuracy)

    networks = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.vmap(networks, in_axes=(0, None, None))(strengths, start, split)


def flat_images() -> tuple[np.ndarray, ...]:
    images = digits()
    # Pixels that are 0 in every training image teach nothing: their weights would be zeros for free.
    inked = images.x_train.any(axis=(0, 3)).ravel()
    x_train, x_test = (x.reshape(len(x), -1)[:, inked] for x in (images.x_train, images.x_test))
    return x_train, images.y_train, x_test, images.y_test


def shuffled(rows: np.ndarray, epochs: int, draws: np.random.Generator) -> np.ndarray:
    """Batches of these rows, in a new order for each epoch."""
    per_epoch = len(rows) // BATCH
    order = [draws.permutation(rows)[: per_epoch * BATCH] for _ in range(epochs)]
    return np.concatenate(order).reshape(-1, BATCH)


def cross_validation(x: np.ndarray, y: np.ndarray, n: int, epochs: int, seed: int) -> Split:
    """Each network is trained on all folds but one, and validated on that one."""
    draws = np.random.default_rng(seed)
    parts = draws.permutation(len(x))[: len(x) // n * n].reshape(n, -1)
    rows = [np.delete(parts, index, axis=0).ravel() for index in range(n)]
    return Split(np.stack([shuffled(r, epochs, draws) for r in rows]), x[parts], y[parts])


def test(size: int, x: np.ndarray, y: np.ndarray, n: int, epochs: int, seed: int) -> Split:
    """Each network is trained on all training images, and tested on all test images."""
    draws = np.random.default_rng(seed)
    batches = np.stack([shuffled(np.arange(size), epochs, draws) for _ in range(n)])
    return Split(batches, *(np.broadcast_to(a, (n, *a.shape)) for a in (x, y)))


def choose(validated: dict[str, list[Outcome]], strengths: Sequence[float]) -> float:
    """The smallest strength with the zeros wanted, or the largest there is."""
    least = [min(o.zeros.mean() for o in both) for both in zip(*validated.values(), strict=True)]
    return next((s for s, zeros in zip(strengths, least, strict=True) if zeros >= WANTED), strengths[-1])


def draw(found: dict[tuple[str, str], Outcome], output: pathlib.Path) -> None:
    figure = new_figure(9, 3.8)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (base, (_, _, _, multiple)) in zip(panels, BASES.items(), strict=True):
        names = [*STYLE, f"{PLAIN}, {multiple:g} x the strength"]
        for name, (colour, marker) in zip(names, [*STYLE.values(), (ORANGE, "^")], strict=True):
            zeros, accuracy = (100 * share for share in found[base, name])
            mean = accuracy.mean()
            spread = [[mean - accuracy.min()], [accuracy.max() - mean]]
            axes.errorbar(
                zeros.mean(), mean, spread, fmt=marker, mfc="none", ms=6, capsize=2, color=colour, label=name
            )
        level = 100 * found[base, "no penalty"].accuracy.mean()
        axes.axhspan(level - 0.5, level + 0.5, color=GREY, alpha=0.15, lw=0)
        axes.axvline(100 * WANTED, color=GREY, ls=":", lw=0.8)
        axes.set(title=base, xlabel="weights exactly 0 (%)", xlim=(-4, 104))
        axes.legend(loc="lower left")
    low, high = panels[0].get_ylim()
    panels[0].set(ylabel="test accuracy (%), least to most", ylim=(low - 0.8 * (high - low), high))
    save(figure, output, "sparse_mlp.png")


def main(args: argparse.Namespace) -> None:
    x, y, x_test, y_test = flat_images()
    n, epochs, strengths = 5, args.epochs, np.array([2e-4, 4e-4, 8e-4])
    if args.quick:  # fewer steps, so that a stronger penalty is needed to reach the zeros
        n, epochs, strengths = 2, epochs // 5, 4 * strengths
    keys = jax.random.split(jax.random.key(args.seed), n)
    start = jax.jit(jax.vmap(lambda key: MLP().init(key, x[:1])))(keys)
    began = time.perf_counter()
    validated, found = {}, {}
    with tqdm.tqdm(total=len(BASES) * (1 + len(STYLE)), unit="training") as progress:

        def outcomes(base: str, kind: str, strengths: Sequence[float], split: Split) -> list[Outcome]:
            outcome = train(base, kind, jnp.asarray(strengths), start, x, y, split)
            progress.update()
            return [Outcome(*cell) for cell in zip(*map(np.asarray, outcome), strict=True)]

        split = cross_validation(x, y, n, epochs, args.seed)
        tried = [0.0, *strengths]  # a strength of 0 is the optimizer without a penalty
        for base in BASES:
            validated[base] = outcomes(base, "proximal form", tried, split)
        strength = choose(validated, tried)

        split = test(len(x), x_test, y_test, n, epochs, args.seed)
        for base in BASES:
            multiple = BASES[base].multiple
            for kind in STYLE:
                factors = [1.0, multiple] if kind == PLAIN else [1.0]
                names = [kind, f"{kind}, {multiple:g} x the strength"]
                several = outcomes(base, kind, [factor * strength for factor in factors], split)
                found |= {(base, name): outcome for name, outcome in zip(names, several, strict=False)}

    print(f"\nCross-validation of the proximal forms on the {len(x):,} training images:")
    heads = [f"{base.split(',')[0]}: {what}" for base in BASES for what in ("zeros", "accuracy")]
    sweep = zip(tried, *validated.values(), strict=True)
    print_table(["strength", *heads], [[f"{s:g}", *cells(*both)] for s, *both in sweep])
    print(f"\nStrength {strength:g}, all training images, {len(x_test)} test images, mean of {n} networks:")
    rows = [[f"{base}: {name}", *cells(outcome)] for (base, name), outcome in found.items()]
    print_table(["training", "weights exactly 0", "test accuracy"], rows)
    if args.quick:
        print("Too short to be representative: the numbers of the documentation are those of a full run.")
    print(f"\nTrained in {time.perf_counter() - began:.0f} s.")
    draw(found, args.output)


def cells(*outcomes: Outcome) -> list[str]:
    return [f"{100 * share.mean():.1f} %" for outcome in outcomes for share in outcome]


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=100, help="of training")
    main(options.parse_args())
