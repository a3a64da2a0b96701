"""Make a trained CNN physically smaller, and prove it the same.

A channel of a residual network lives in many arrays: filters, batch-norm scales, shifts and running
statistics, and the inputs of every later layer that reads it, across the shortcut. ``structures.trace``
finds them, the group lasso makes whole channels exactly zero, and ``compact`` cuts them out. Trained from
one start: a dense network; the same with the group lasso; what is left of it, trained on.
"""

import argparse
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from common import BLUE, GREEN, GREY, Images, digits, load_images, new_figure, parser, print_table, save

import jaxreg

BATCH = 64
WIDTHS = {"stem": 48, "block1": 48, "down": 96, "block2": 96, "block3": 96}


class CNN(nn.Module):
    """A residual block, a convolution that halves the image, a second residual block."""

    classes: int
    widths: Mapping[str, int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        def convolution(x: jax.Array, name: str, width: int, stride: int = 1) -> jax.Array:
            x = nn.Conv(width, (3, 3), strides=stride, use_bias=False, name=f"{name}_conv")(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"{name}_norm")(x)

        widths = self.widths
        x = nn.relu(convolution(x, "stem", widths["stem"]))
        y = nn.relu(convolution(x, "block1", widths["block1"]))
        x = nn.relu(x + convolution(y, "block1_out", widths["stem"]))
        x = nn.relu(convolution(x, "down", widths["down"], stride=2))
        y = nn.relu(convolution(x, "block2", widths["block2"]))
        x = nn.relu(x + convolution(y, "block2_out", widths["down"]))
        y = nn.relu(convolution(x, "block3", widths["block3"]))
        x = nn.relu(x + convolution(y, "block3_out", widths["down"]))
        return nn.Dense(self.classes, name="classes")(x.mean((1, 2)))


def widths_of(variables: Any) -> dict[str, int]:
    return {name: variables["params"][f"{name}_conv"]["kernel"].shape[-1] for name in WIDTHS}


class Run(NamedTuple):
    variables: Any
    accuracy: list[float]  # on the test images, after each epoch


class Trainer:
    def __init__(self, images: Images, seed: int, progress: Any):
        self.images, self.seed, self.progress = images, seed, progress
        self.classes = int(images.y_train.max()) + 1

    def fit(
        self,
        name: str,
        variables: Any,
        optimizer: optax.GradientTransformation,
        epochs: int,
    ) -> Run:
        """Train parameters; running statistics stand beside them in the same tree and get no gradient."""
        model = CNN(self.classes, widths_of(variables))

        def loss(variables: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
            logits, statistics = model.apply(variables, x, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), statistics

        # A jitted step called from Python: inside lax.scan, XLA runs convolutions on a CPU many times
        # slower. Variables and optimizer state are donated, so that they are updated in place.
        def train_step(variables: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
            grads, statistics = jax.grad(loss, has_aux=True)(variables, x, y)
            variables, state = jaxreg.step(optimizer, grads, state, variables)
            return {**variables, **statistics}, state

        train_step = jax.jit(train_step, donate_argnums=(0, 1))
        correct = jax.jit(lambda variables, x, y: jnp.sum(model.apply(variables, x).argmax(-1) == y))
        variables = jax.tree.map(jnp.array, variables)  # a copy: the caller's own is not donated
        state = optimizer.init(variables)
        order = np.random.default_rng(self.seed)  # every run sees the same batches
        accuracy = []
        self.progress.set_description(name)
        for _ in range(epochs):
            shuffled = order.permutation(len(self.images.x_train))
            for start in range(0, len(shuffled) - BATCH + 1, BATCH):
                batch = shuffled[start : start + BATCH]
                variables, state = train_step(
                    variables, state, self.images.x_train[batch], self.images.y_train[batch]
                )
            accuracy.append(self.accuracy(correct, variables))
            self.progress.update()
        return Run(variables, accuracy)

    def accuracy(self, correct: Any, variables: Any) -> float:
        x, y = self.images.x_test, self.images.y_test
        starts = range(0, len(x), 500)
        return sum(int(correct(variables, x[i : i + 500], y[i : i + 500])) for i in starts) / len(x)


def paired_timing(dense: Any, compact: Any, repeats: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median of their ratios: each pair is timed at one moment."""
    for function in (dense, compact):
        jax.block_until_ready(function())  # compile
    seconds = np.zeros((repeats, 2))
    for row in seconds:
        for place, function in enumerate((dense, compact)):
            began = time.perf_counter()
            jax.block_until_ready(function())
            row[place] = time.perf_counter() - began
    return *np.median(seconds, axis=0).tolist(), float(np.median(seconds[:, 0] / seconds[:, 1]))


def draw(
    dense: Run, sparse: Run, tuned: Run, milliseconds: tuple[float, float], output: pathlib.Path
) -> None:
    figure = new_figure(9.6, 3.6)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.1, 1.2, 0.5])

    before, after = widths_of(dense.variables), widths_of(tuned.variables)
    rows = np.arange(len(before))[::-1]
    left.barh(rows, before.values(), color=GREY, alpha=0.35, label="dense")
    left.barh(rows, after.values(), color=BLUE, label="compact")
    for row, name in zip(rows, before, strict=True):
        left.annotate(
            f"{after[name]} of {before[name]}", (before[name], row), (-4, 0), "data", "offset points",
            ha="right", va="center",
        )  # fmt: skip
    left.set(yticks=rows, yticklabels=list(before), title="Channels by layer")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, -0.28), ncols=2)

    border = len(sparse.accuracy)
    epochs = np.arange(1, border + len(tuned.accuracy) + 1)
    middle.plot(epochs[:border], 100 * np.array(dense.accuracy), color=GREY, label="dense")
    middle.plot(epochs, 100 * np.array(sparse.accuracy + tuned.accuracy), color=BLUE, label="group lasso")
    middle.axvspan(border, epochs[-1], color=GREEN, alpha=0.12, lw=0)
    middle.annotate("compact", (border, 90), (4, 4), "data", "offset points", color=GREEN, va="bottom")
    middle.set(xlabel="epoch", title="Test accuracy (%)", ylim=(min(90.0, 100 * tuned.accuracy[-1] - 5), 100))
    middle.legend(loc="lower right", bbox_to_anchor=(1.0, 0.12))

    right.bar(["dense", "compact"], milliseconds, color=[GREY, BLUE], width=0.6)
    right.set(title="Forward pass (ms)")
    save(figure, output, "shrink_cnn.png")


def main(args: argparse.Namespace) -> None:
    images = load_images(args.data) if args.data else digits()
    epochs, tuning_epochs, strength, repeats = args.epochs, args.tuning_epochs, args.strength, 60
    if args.quick:  # fewer steps, so that a stronger penalty is needed to reach the zeros
        images = images._replace(x_train=images.x_train[:640], y_train=images.y_train[:640])
        epochs, tuning_epochs, strength, repeats = 6, 2, 2 * strength, 10
    x = images.x_test[:500]
    with tqdm.tqdm(total=2 * epochs + tuning_epochs, unit="epoch") as progress:
        trainer = Trainer(images, args.seed, progress)
        model = CNN(trainer.classes, WIDTHS)
        start = jax.jit(model.init)(jax.random.key(args.seed), x[:1])
        graph = jaxreg.structures.trace(model.apply, start, x, state="batch_stats/**")

        steps = len(images.x_train) // BATCH  # per epoch
        rate = optax.cosine_decay_schedule(3e-3, epochs * steps)
        dense = trainer.fit("dense", start, optax.adam(rate), epochs)
        penalty = jaxreg.group_lasso(strength, graph, size_weights=False)
        sparse = trainer.fit("group lasso", start, jaxreg.prox_adam(rate, penalty), epochs)

        # The new network has the outputs of the one with zeros, and is checked to have them. So has a
        # module built with the new widths, which is trained on like any other.
        small = jaxreg.compact(graph, sparse.variables, round_to=args.round_to, inputs=(x,), tolerance=1e-5)
        rebuilt = CNN(trainer.classes, widths_of(small.params))
        difference = small.module_difference(rebuilt.apply)
        if difference is not None:
            raise SystemExit(f"The rebuilt module is another function: {difference}")
        rate = optax.cosine_decay_schedule(3e-4, tuning_epochs * steps)
        tuned = trainer.fit("tuning", small.params, optax.adam(rate), tuning_epochs)

    with_zeros = jax.jit(model.apply)(sparse.variables, x)
    replayed, rerun = (jax.jit(apply)(small.params, x) for apply in (small.apply, rebuilt.apply))
    run_dense, run_small = jax.jit(model.apply), jax.jit(small.apply)
    *seconds, faster = paired_timing(
        lambda: run_dense(dense.variables, x), lambda: run_small(small.params, x), repeats
    )
    n_dense, n_small = (sum(a.size for a in jax.tree.leaves(v["params"])) for v in (start, small.params))

    print(small.report)
    print_table(
        ["network", "parameters", "forward pass", "test accuracy"],
        [
            ["dense", f"{n_dense:,}", f"{1e3 * seconds[0]:.2f} ms", f"{100 * dense.accuracy[-1]:.1f} %"],
            ["compact", f"{n_small:,}", f"{1e3 * seconds[1]:.2f} ms", f"{100 * sparse.accuracy[-1]:.1f} %"],
            ["  and trained on", f"{n_small:,}", "", f"{100 * tuned.accuracy[-1]:.1f} %"],
        ],
    )
    print(f"\n{100 * (1 - n_small / n_dense):.1f} % of the parameters gone, {faster:.1f} times as fast.")
    print(f"Largest difference to the network with zeros: {np.abs(replayed - with_zeros).max():.1e};")
    print(f"of a Flax module with the new widths: {np.abs(rerun - with_zeros).max():.1e}.")
    draw(dense, sparse, tuned, (1e3 * seconds[0], 1e3 * seconds[1]), args.output)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument(
        "--data", type=pathlib.Path, help="your own images: an npz, or a folder of IDX files"
    )
    options.add_argument("--strength", type=float, default=5e-2, help="of the penalty, in units of the loss")
    options.add_argument("--epochs", type=int, default=25, help="of training")
    options.add_argument("--round-to", type=int, default=4, help="widths that hardware likes are multiples")
    options.add_argument("--tuning-epochs", type=int, default=10, help="of training after the removal")
    main(options.parse_args())
