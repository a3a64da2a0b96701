"""What L1 and L2 do to a network's weights: histograms at a strength too small, right and too large.

L1, taken by its proximal operator, puts weights at exactly zero, more of them the stronger it is.
L2 makes the histogram narrower and zeroes nothing. Few training images, so that a penalty can help.
"""

import argparse
import functools
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from common import BLUE, GREY, ORANGE, Images, digits, new_figure, parser, print_table, save

import jaxreg

BATCH, RATE, RUNS = 64, 2e-3, 3
WEIGHTS = jaxreg.masks.name("kernel")  # not the biases
STRENGTHS = (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
# Found by the sweep: "right" costs no accuracy (L1: with the most zeros), "too large" does.
PICTURED = {
    "L1": {"too small": 1e-6, "right": 1e-3, "too large": 6e-3},
    "L2": {"too small": 1e-6, "right": 3e-3, "too large": 3e-2},
}
COLOURS = {"L1": BLUE, "L2": ORANGE}


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(128)(x))
        x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(x)


class Outcome(NamedTuple):
    accuracy: float  # on the test images, mean over runs
    zeros: float  # share of the weights that are exactly 0, mean over runs
    weights: np.ndarray  # of all kernels in one vector, first run


def optimizer_for(kind: str, strength: Any) -> optax.GradientTransformation:
    if kind == "L1":
        return jaxreg.prox_adam(RATE, jaxreg.l1(strength, mask=WEIGHTS))
    return optax.chain(jaxreg.add_penalty(jaxreg.l2(strength, mask=WEIGHTS)), optax.adam(RATE))


# The strength is an argument like any other: one compilation serves all of them.
@functools.partial(jax.jit, static_argnames="kind")
def train(
    kind: str, strength: jax.Array, key: jax.Array, images: Images, batches: jax.Array
) -> tuple[Any, jax.Array]:
    model, optimizer = MLP(), optimizer_for(kind, strength)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    def train_step(carry: tuple[Any, Any], batch: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        grads = jax.grad(loss)(params, images.x_train[batch], images.y_train[batch])
        return jaxreg.step(optimizer, grads, state, params), None

    params = model.init(key, images.x_train[:1])
    (params, _), _ = jax.lax.scan(train_step, (params, optimizer.init(params)), batches)
    return params, jnp.mean(model.apply(params, images.x_test).argmax(-1) == images.y_test)


def outcome(kind: str, strength: float, seed: int, images: Images, epochs: int) -> Outcome:
    vectors, accuracies = [], []
    for run in range(seed, seed + RUNS):
        draw = np.random.default_rng(run)
        order = np.stack([draw.permutation(len(images.x_train)) for _ in range(epochs)])
        per_epoch = len(images.x_train) // BATCH
        batches = order[:, : per_epoch * BATCH].reshape(-1, BATCH)
        params, accuracy = train(kind, strength, jax.random.key(run), images, batches)
        kernels = [layer["kernel"] for layer in params["params"].values()]
        vectors.append(np.concatenate([np.ravel(kernel) for kernel in kernels]))
        accuracies.append(float(accuracy))
    return Outcome(float(np.mean(accuracies)), float(np.mean(np.stack(vectors) == 0)), vectors[0])


def flat_images(n_train: int) -> Images:
    images = digits()
    # Pixels that are 0 in every image teach nothing: their weights would only show the penalty at work.
    inked = images.x_train.any(axis=(0, 3)).ravel()
    x_train, x_test = (x.reshape(len(x), -1)[:, inked] for x in (images.x_train, images.x_test))
    return Images(x_train[:n_train], images.y_train[:n_train], x_test, images.y_test)


def draw(outcomes: dict[tuple[str, float], Outcome], output: pathlib.Path) -> None:
    figure = new_figure(12, 5.2)
    grid = figure.add_gridspec(2, 4, width_ratios=[1, 1, 1, 1.25])
    for row, (kind, pictured) in enumerate(PICTURED.items()):
        first = None
        for column, (label, strength) in enumerate(pictured.items()):
            axes = figure.add_subplot(grid[row, column], sharey=first)
            first = first or axes
            draw_histogram(axes, kind, outcomes[kind, strength])
            axes.set_title(f"{kind}, {label}: strength {strength:g}")
            if column == 0:
                axes.set_ylabel("weights (log scale)")
    draw_curves(figure.add_subplot(grid[0, 3]), outcomes, "zeros", "weights exactly 0 (%)")
    draw_curves(figure.add_subplot(grid[1, 3]), outcomes, "accuracy", "test accuracy (%)")
    save(figure, output, "l1_vs_l2.png")


def draw_histogram(axes: Any, kind: str, found: Outcome) -> None:
    bins = np.linspace(-1.3, 1.3, 78)  # an odd number of bins, so that one is centred on 0
    width = bins[1] - bins[0]
    n_zeros = int(np.sum(found.weights == 0))
    if n_zeros:
        axes.bar(0, n_zeros, width, color="black")
        axes.annotate("exactly 0", (0, n_zeros), (6, -1), "data", "offset points", va="top")
    axes.hist(found.weights[found.weights != 0], bins, color=COLOURS[kind])
    axes.set(yscale="log", ylim=(0.7, 5e5), xlim=(bins[0], bins[-1]), xlabel="weight")
    note = f"zeros {100 * found.zeros:.1f} %\naccuracy {100 * found.accuracy:.1f} %"
    axes.text(0.02, 0.97, note, transform=axes.transAxes, va="top")


def draw_curves(axes: Any, outcomes: dict[tuple[str, float], Outcome], quantity: str, label: str) -> None:
    for kind, colour in COLOURS.items():
        strengths = sorted(strength for found, strength in outcomes if found == kind)
        values = [100 * getattr(outcomes[kind, strength], quantity) for strength in strengths]
        axes.plot(strengths, values, color=colour, label=kind)
        for strength in PICTURED[kind].values():
            axes.plot(strength, 100 * getattr(outcomes[kind, strength], quantity), "o", color=colour)
    axes.set(xscale="log", xlabel="strength (dots: the histograms)", ylabel=label, ylim=(-3, 103))
    axes.grid(axis="y", color=GREY, alpha=0.25)
    axes.legend()


def main(args: argparse.Namespace) -> None:
    images = flat_images(n_train=200)
    epochs = 60 if args.quick else 200
    swept = STRENGTHS[::4] if args.quick else STRENGTHS
    cells = [(kind, s) for kind in PICTURED for s in sorted({*swept, *PICTURED[kind].values()})]
    outcomes = {}
    for kind, strength in tqdm.tqdm(cells, unit="strength"):
        outcomes[kind, strength] = outcome(kind, strength, args.seed, images, epochs)

    names = {(kind, s): label for kind, pictured in PICTURED.items() for label, s in pictured.items()}
    rows = []
    for (kind, strength), found in outcomes.items():
        numbers = [
            f"{100 * found.accuracy:.1f} %",
            f"{100 * found.zeros:.1f} %",
            f"{found.weights.std():.3f}",
        ]
        rows.append([kind, f"{strength:g}", *numbers, names.get((kind, strength), "")])
    print_table(["", "strength", "test accuracy", "exactly 0", "std of weights", "pictured as"], rows)
    draw(outcomes, args.output)


if __name__ == "__main__":
    main(parser(__doc__).parse_args())
