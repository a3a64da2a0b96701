"""Train a small CNN whose filters and neurons come out exactly zero.

The same network, from the same initial weights, four times: without a penalty; with L1 added to the
loss, which makes weights small but none zero; with the group lasso and proximal Adam, which removes
whole filters and neurons; and that last one refitted on the units it kept.
"""

import argparse
import pathlib
import time
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich
import tqdm
from common import BLUE, GREEN, GREY, Images, digits, load_images, new_figure, parser, print_table, save

import jaxreg

# A unit is a filter or a hidden neuron: the weights into it, which live and die together. Those of the
# last layer are the classes, so they are left alone; biases are not penalised anywhere.
UNITS = jaxreg.groups.outputs()
HIDDEN = jaxreg.masks.path("*/kernel") & ~jaxreg.masks.path("classes/*")
BATCH = 64


class CNN(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(32, (3, 3), name="conv1")(x))
        x = nn.relu(nn.Conv(64, (3, 3), name="conv2")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(128, name="dense")(x))
        return nn.Dense(self.classes, name="classes")(x)


class Run(NamedTuple):
    params: Any
    accuracy: list[float]  # on the test images, after each epoch
    dead: list[int]  # units without a single non-zero weight, after each epoch


class Trainer:
    def __init__(self, images: Images, seed: int, progress: Any):
        self.images, self.seed, self.progress = images, seed, progress
        self.model = CNN(classes=int(images.y_train.max()) + 1)
        self.correct = jax.jit(lambda params, x, y: jnp.sum(self.logits(params, x).argmax(-1) == y))

    def initial_params(self) -> Any:
        return self.model.init(jax.random.key(self.seed), self.images.x_train[:1])["params"]

    def logits(self, params: Any, x: jax.Array) -> jax.Array:
        return self.model.apply({"params": params}, x)

    def loss(self, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(self.logits(params, x), y).mean()

    def fit(self, name: str, params: Any, optimizer: optax.GradientTransformation, epochs: int) -> Run:
        # A jitted step called from Python: inside lax.scan, XLA runs convolutions on a CPU many times
        # slower. Parameters and optimizer state are donated, so that they are updated in place.
        def train_step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
            grads = jax.grad(self.loss)(params, x, y)
            return jaxreg.step(optimizer, grads, state, params)

        train_step = jax.jit(train_step, donate_argnums=(0, 1))
        params = jax.tree.map(jnp.array, params)  # a copy: the caller's own is not donated
        state = optimizer.init(params)
        order = np.random.default_rng(self.seed)  # every run sees the same batches
        run = Run(params, [], [])
        self.progress.set_description(name)
        for _ in range(epochs):
            shuffled = order.permutation(len(self.images.x_train))
            for start in range(0, len(shuffled) - BATCH + 1, BATCH):
                batch = shuffled[start : start + BATCH]
                params, state = train_step(
                    params, state, self.images.x_train[batch], self.images.y_train[batch]
                )
            run.accuracy.append(self.accuracy(params))
            run.dead.append(count(params).dead)
            self.progress.update()
        return run._replace(params=params)

    def accuracy(self, params: Any) -> float:
        x, y = self.images.x_test, self.images.y_test
        starts = range(0, len(x), 500)
        return sum(int(self.correct(params, x[i : i + 500], y[i : i + 500])) for i in starts) / len(x)


class Count(NamedTuple):
    weights: int
    zeros: int
    units: int
    dead: int


def count(params: Any) -> Count:
    """Exact zeros (== 0, no tolerance) among all weights, and dead units."""
    report = jaxreg.report(params, UNITS, mask=HIDDEN)
    kernels = [leaf for leaf in report.leaves if leaf.path.endswith("kernel")]
    return Count(
        weights=sum(leaf.elements for leaf in kernels),
        zeros=sum(leaf.zeros for leaf in kernels),
        units=sum(leaf.groups or 0 for leaf in kernels),  # None for the last layer
        dead=sum(leaf.zero_groups or 0 for leaf in kernels),
    )


def silence_dead_units(params: Any) -> Any:
    """Set the biases of dead units to zero.

    A unit counts as dead by its kernel alone. Its bias was not penalised, so the unit may still put out a
    constant, relu(bias), that the next layer reads as part of its own bias. With the bias gone the unit
    puts out exactly 0: cutting it from the network then changes nothing. What the constant was good
    for, the refit teaches the biases that stay.
    """

    def silenced(layer: dict[str, jax.Array]) -> dict[str, jax.Array]:
        kernel = layer["kernel"]
        dead = jnp.all(kernel == 0, axis=tuple(range(kernel.ndim - 1)))
        return {**layer, "bias": jnp.where(dead, 0.0, layer["bias"])}

    return {name: layer if name == "classes" else silenced(layer) for name, layer in params.items()}


def train_all(trainer: Trainer, strength: float, epochs: int, refit_epochs: int) -> dict[str, Run]:
    start = trainer.initial_params()
    steps = len(trainer.images.x_train) // BATCH  # per epoch
    rate = optax.cosine_decay_schedule(3e-3, epochs * steps)
    runs = {"no penalty": trainer.fit("no penalty", start, optax.adam(rate), epochs)}

    # Without size weights a small filter costs as much as a big one. That suits networks whose initial
    # weights are scaled by fan-in, where all units begin with about the same norm.
    group_lasso = jaxreg.group_lasso(strength, UNITS, size_weights=False, mask=HIDDEN)

    # The norm of 256 weights of one size is 1/16 of their L1 norm: with this strength both penalties pull
    # about as hard on such a unit.
    l1 = jaxreg.l1(strength / 16, mask=HIDDEN)
    l1_in_loss = optax.chain(jaxreg.add_penalty(l1), optax.adam(rate))
    runs["L1 in the loss"] = trainer.fit("L1 in the loss", start, l1_in_loss, epochs)

    sparse = trainer.fit("group lasso", start, jaxreg.prox_adam(rate, group_lasso), epochs)
    runs["group lasso, proximal Adam"] = sparse

    # The penalty also shrank the weights that stayed. Train them on without it, zeros held. Biases of the
    # hidden layers are held too: those of dead units are exactly 0 now, and those of live units are not.
    rate = optax.cosine_decay_schedule(1e-3, refit_epochs * steps)
    refit = jaxreg.freeze_zeros(optax.adam(rate), mask=~jaxreg.masks.path("classes/*"))
    runs["  and refit"] = trainer.fit("refit", silence_dead_units(sparse.params), refit, refit_epochs)
    return runs


def draw(runs: dict[str, Run], output: pathlib.Path) -> None:
    dense, _, sparse, refit = runs.values()
    figure = new_figure(9.6, 4.4)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.1])
    top, bottom = left.subfigures(2, 1, hspace=0.06)
    draw_filters(top, dense.params, "First layer without a penalty: {all} filters")
    draw_filters(bottom, refit.params, "With the group lasso: {alive} of {all} filters left")

    upper, lower = right.subplots(2, 1, sharex=True)
    border = len(sparse.dead)
    epochs = np.arange(1, border + len(refit.dead) + 1)
    n_units = count(refit.params).units
    upper.plot(epochs[:border], 100 * np.array(dense.accuracy), color=GREY, label="no penalty")
    upper.plot(
        epochs, 100 * np.array(sparse.accuracy + refit.accuracy), color=BLUE, label="group lasso, then refit"
    )
    upper.plot(epochs[border - 1 :], np.full(len(refit.dead) + 1, 100 * dense.accuracy[-1]), ":", color=GREY)
    upper.set(ylabel="test accuracy (%)", ylim=(min(90.0, 100 * dense.accuracy[-1] - 5), 100))
    upper.legend(loc="lower right")
    lower.plot(epochs[:border], dense.dead, color=GREY)
    lower.plot(epochs, sparse.dead + refit.dead, color=BLUE)
    lower.axhline(n_units / 2, color=GREY, ls="--", lw=0.8)
    lower.annotate(
        "half of them", (epochs[-1], n_units / 2), (0, 3), "data", "offset points", color=GREY, ha="right"
    )
    lower.set(xlabel="epoch", ylabel=f"dead units of {n_units}", ylim=(-4, n_units))
    for axes in (upper, lower):
        axes.axvspan(border, epochs[-1], color=GREEN, alpha=0.12, lw=0)
    lower.annotate(
        "refit,\nzeros held", (border, n_units), (4, -4), "data", "offset points", color=GREEN, va="top"
    )
    save(figure, output, "sparse_digits.png")


def draw_filters(figure: Any, params: Any, title: str) -> None:
    kernel = np.asarray(params["conv1"]["kernel"]).mean(axis=2)  # over colours
    n_filters = kernel.shape[-1]
    largest = np.abs(kernel).max()
    alive = np.any(kernel != 0, axis=(0, 1))
    figure.suptitle(title.format(all=n_filters, alive=alive.sum()), fontsize=10)
    for index, axes in enumerate(figure.subplots(4, n_filters // 4).flat):
        axes.set(xticks=[], yticks=[])
        if alive[index]:
            axes.imshow(kernel[..., index], cmap="RdBu_r", vmin=-largest, vmax=largest)
            axes.spines[:].set(visible=True, color="black", lw=0.6)
        else:  # an empty frame
            axes.set_box_aspect(1)
            axes.spines[:].set(visible=True, color="#c8c8c8", lw=0.6, linestyle=(0, (2, 2)))


def main(args: argparse.Namespace) -> None:
    images = load_images(args.data) if args.data else digits()
    epochs, refit_epochs, strength = args.epochs, args.refit_epochs, args.strength
    if args.quick:  # fewer steps, so that a stronger penalty is needed to reach the zeros
        images = images._replace(x_train=images.x_train[:640], y_train=images.y_train[:640])
        epochs, refit_epochs, strength = 8, 4, 4 * strength
    began = time.perf_counter()
    with tqdm.tqdm(total=3 * epochs + refit_epochs, unit="epoch") as progress:
        trainer = Trainer(images, args.seed, progress)
        runs = train_all(trainer, strength, epochs, refit_epochs)

    rows = []
    for name, run in runs.items():
        found = count(run.params)
        zeros = f"{found.zeros:,} ({100 * found.zeros / found.weights:.1f} %)"
        rows.append([name, f"{100 * run.accuracy[-1]:.1f} %", zeros, f"{found.dead} of {found.units}"])
    print_table(["training", "test accuracy", "weights exactly 0", "dead units"], rows)
    print(f"\nTrained in {time.perf_counter() - began:.0f} s. Refitted network, by layer:\n")
    rich.print(jaxreg.report(runs["  and refit"].params, UNITS, mask=HIDDEN))
    draw(runs, args.output)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument(
        "--data", type=pathlib.Path, help="your own images: an npz, or a folder of IDX files"
    )
    options.add_argument("--strength", type=float, default=5e-3, help="of the penalty, in units of the loss")
    options.add_argument("--epochs", type=int, default=60, help="of training")
    options.add_argument("--refit-epochs", type=int, default=30, help="of training on the units that stay")
    main(options.parse_args())
