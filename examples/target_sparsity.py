"""Ask for 50, 80, 90, 95 % exact zeros instead of a strength, and see what is left of the accuracy.

A network is trained on scikit-learn's digits with a ramp of exact zeros, twice per target: by a strength that
is found anew in each step, and by projection on the largest weights. Initial weights and batches are the same
in all runs; nothing is tuned for a target, a model or an optimizer.

``--all`` measures three models, four optimizers, and groups: the tables of docs/choosing_strength.md.
"""

import argparse
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from common import BLUE, GREY, ORANGE, Images, digits, new_figure, parser, print_table, save

import jaxreg

BATCH = 64
KERNELS = jaxreg.masks.name("kernel")


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(256, name="hidden1")(x))
        x = nn.relu(nn.Dense(128, name="hidden2")(x))
        return nn.Dense(10, name="classes")(x)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(16, (3, 3), name="hidden1")(x))
        x = nn.relu(nn.Conv(32, (3, 3), name="hidden2")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(64, name="hidden3")(x.reshape(x.shape[0], -1)))
        return nn.Dense(10, name="classes")(x)


class Transformer(nn.Module):
    """Reads an image line by line."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(32, name="embed")(x[..., 0])
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape[1:])
        for block in range(2):
            x = x + nn.MultiHeadDotProductAttention(4, name=f"attention{block}")(nn.LayerNorm()(x))
            hidden = nn.relu(nn.Dense(64, name=f"hidden{block}")(nn.LayerNorm()(x)))
            x = x + nn.Dense(32, name=f"back{block}")(hidden)
        return nn.Dense(10, name="classes")(nn.LayerNorm()(x).mean(axis=1))


MODELS = {"mlp": MLP(), "cnn": CNN(), "transformer": Transformer()}
OPTIMIZERS = ("sgd", "adam", "prox_sgd", "prox_adam")
TARGETS = (0.5, 0.8, 0.9, 0.95, 0.99)
GROUP_TARGETS = (0.3, 0.5, 0.7)
SEEDS = 3


class Run(NamedTuple):
    steps: np.ndarray
    zeros: np.ndarray  # the share of exact zeros after these steps
    accuracy: float
    units: int  # weights, or groups of weights


class Trainer:
    """Trains one model with one optimizer, for many targets and seeds."""

    def __init__(self, images: Images, model: str, optimizer: str, method: str, grouped: bool, epochs: int):
        self.images, self.model, self.epochs = images, MODELS[model], epochs
        self.optimizer, self.method = optimizer, method
        self.groups = jaxreg.groups.outputs() if grouped else None
        # Units of hidden layers: the classes are not for removal.
        self.mask = KERNELS & jaxreg.masks.path("hidden*/**") if grouped else KERNELS
        self.per_epoch = len(images.x_train) // BATCH
        total = epochs * self.per_epoch
        self.begin, self.end = total // 10, 6 * total // 10  # then time to recover
        # XLA runs convolutions with a kernel for each lane slowly on CPUs: those one after the other.
        self.lanes = 1 if model == "cnn" else None
        self.step = jax.jit(jax.vmap(self.advance), donate_argnums=(0, 1))
        self.share = jax.jit(jax.vmap(self.share_of))
        self.correct = jax.jit(jax.vmap(self.accuracy))

    def logits(self, params: Any, x: jax.Array) -> jax.Array:
        return self.model.apply({"params": params}, x)

    def make(self, target: Any) -> optax.GradientTransformation:
        if self.groups is None:
            penalty = jaxreg.l1(1.0, mask=self.mask)
        else:
            penalty = jaxreg.group_lasso(1.0, self.groups, size_weights=False, mask=self.mask)
        ramp = {"begin_step": self.begin, "end_step": self.end, "method": self.method}
        is_sgd = self.optimizer.endswith("sgd")
        rate = optax.cosine_decay_schedule(0.05 if is_sgd else 2e-3, self.epochs * self.per_epoch)
        if self.optimizer.startswith("prox"):
            ramped = jaxreg.sparsity_ramp(penalty, target, **ramp)
            return jaxreg.prox_sgd(rate, ramped, momentum=0.9) if is_sgd else jaxreg.prox_adam(rate, ramped)
        plain = optax.sgd(rate, momentum=0.9) if is_sgd else optax.adam(rate)
        return optax.chain(plain, jaxreg.target_sparsity(penalty, rate, target, **ramp))

    def advance(self, params: Any, state: Any, target: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(self.logits(params, x), y).mean()

        return jaxreg.step(self.make(target), jax.grad(loss)(params), state, params)

    def share_of(self, params: Any) -> jax.Array:
        return jaxreg.sparsity(params, self.groups, mask=self.mask)

    def accuracy(self, params: Any) -> jax.Array:
        return jnp.mean(self.logits(params, self.images.x_test).argmax(-1) == self.images.y_test)

    def fit(self, targets: Sequence[float], seeds: Sequence[int]) -> list[list[Run]]:
        """One run for each seed (outer list) and target."""
        lanes = [(target, seed) for seed in seeds for target in targets]
        width = self.lanes or len(lanes)
        made = [run for i in range(0, len(lanes), width) for run in self.train(lanes[i : i + width])]
        return [made[i : i + len(targets)] for i in range(0, len(made), len(targets))]

    def train(self, lanes: Sequence[tuple[float, int]]) -> list[Run]:
        """Runs for pairs of a target and a seed, side by side."""
        seeds = {seed for _, seed in lanes}
        asked = jnp.array([target for target, _ in lanes], jnp.float32)
        starts = {
            seed: self.model.init(jax.random.key(seed), self.images.x_train[:1])["params"] for seed in seeds
        }
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(starts[seed] for _, seed in lanes))
        state = jax.vmap(lambda params, target: self.make(target).init(params))(params, asked)
        steps, zeros = [], []
        last = self.epochs * self.per_epoch
        for count, batch in enumerate(tqdm.tqdm(self.batches(seeds), total=last, leave=False), start=1):
            rows = np.stack([batch[seed] for _, seed in lanes])
            x, y = self.images.x_train[rows], self.images.y_train[rows]
            params, state = self.step(params, state, asked, x, y)
            if count % max(1, self.per_epoch // 2) == 0 or count == last:
                steps.append(count)
                zeros.append(np.asarray(self.share(params)))
        units = self.units(starts[lanes[0][1]])
        return [
            Run(np.array(steps), np.array(shares), float(accuracy), units)
            for shares, accuracy in zip(np.transpose(zeros), self.correct(params), strict=True)
        ]

    def batches(self, seeds: Collection[int]) -> Iterator[dict[int, np.ndarray]]:
        """For each seed the rows of a batch, the same for every target."""
        orders = {seed: np.random.default_rng(seed) for seed in seeds}
        for _ in range(self.epochs):
            shuffled = {seed: order.permutation(len(self.images.x_train)) for seed, order in orders.items()}
            for start in range(0, self.per_epoch * BATCH, BATCH):
                yield {seed: rows[start : start + BATCH] for seed, rows in shuffled.items()}

    def units(self, params: Any) -> int:
        leaves = jaxreg.report(params, self.groups, mask=self.mask).leaves
        if self.groups is not None:
            return sum(leaf.groups or 0 for leaf in leaves)
        chosen = jax.tree.leaves(self.mask(params))
        return sum(leaf.elements for leaf, counts in zip(leaves, chosen, strict=True) if counts)

    def ramp(self, steps: np.ndarray, target: float) -> np.ndarray:
        progress = np.clip((steps - self.begin) / (self.end - self.begin), 0, 1)
        return target * (1 - (1 - progress) ** 3)

    def distance(self, run: Run, target: float) -> float:
        """The furthest from the ramp in its second half and after."""
        late = run.steps >= (self.begin + self.end) / 2
        return float(np.abs(run.zeros - self.ramp(run.steps, target))[late].max())


def measure_all(images: Images, epochs: int, first_seed: int) -> None:
    """Everything that is claimed, for elements and for groups: means over seeds, and the worst of them."""
    seeds = range(first_seed, first_seed + SEEDS)
    for grouped, targets in ((False, TARGETS), (True, GROUP_TARGETS)):
        rows = []
        cases = [(m, o, way) for m in MODELS for way in ("strength", "projection") for o in OPTIMIZERS]
        for model, optimizer, method in (progress := tqdm.tqdm(cases)):
            progress.set_description(f"{model} {optimizer} {method}")
            trainer = Trainer(images, model, optimizer, method, grouped, epochs)
            runs = trainer.fit((0.0, *targets), seeds)
            pairs = [pair for of_seed in runs for pair in zip(of_seed[1:], targets, strict=True)]
            final = max(abs(run.zeros[-1] - target) * run.units for run, target in pairs)
            ramp = max(trainer.distance(run, target) for run, target in pairs)
            accuracy = 100 * np.mean([[run.accuracy for run in of_seed] for of_seed in runs], axis=0)
            row = [model, optimizer, method, f"{final:.1f} of {runs[0][0].units:,}", f"{100 * ramp:.2f}"]
            rows.append([*row, *(f"{mean:.1f}" for mean in accuracy)])
            tqdm.tqdm.write("  ".join(rows[-1]))
        headers = ["model", "optimizer", "method", "units off at the end", "points off the ramp", "dense"]
        print_table(headers + [f"{target:.0%}" for target in targets], rows)


def main(args: argparse.Namespace) -> None:
    images, epochs, targets = digits(), args.epochs, TARGETS[:4]
    if args.quick:
        images = images._replace(x_train=images.x_train[:640], y_train=images.y_train[:640])
        epochs = 12
    if args.all:
        measure_all(images, epochs, args.seed)
        return
    rows, found = [], {}
    for method in ("strength", "projection"):
        trainer = Trainer(images, args.model, args.optimizer, method, args.groups, epochs)
        [runs] = trainer.fit((0.0, *targets), [args.seed])
        found["dense"] = runs[0]
        for target, run in zip(targets, runs[1:], strict=True):
            found[method, target] = run
            got, off = f"{run.zeros[-1]:.2%}", f"{100 * trainer.distance(run, target):.2f}"
            rows.append([method, f"{target:.0%}", got, off, f"{run.accuracy:.1%}"])
    rows.insert(0, ["dense", "-", f"{found['dense'].zeros[-1]:.2%}", "-", f"{found['dense'].accuracy:.1%}"])
    print_table(["method", "asked", "exactly zero", "points off the ramp", "test accuracy"], rows)
    draw(trainer, found, targets, args)


def draw(
    trainer: Trainer, found: dict[Any, Run], targets: tuple[float, ...], args: argparse.Namespace
) -> None:
    figure = new_figure(9.6, 3.6)
    left, right = figure.subplots(1, 2)
    for target in targets:
        run = found["strength", target]
        left.plot(run.steps, 100 * run.zeros, color=BLUE)
        left.plot(run.steps, 100 * trainer.ramp(run.steps, target), ":", color="black", lw=1)
        left.annotate(f"{target:.0%}", (run.steps[-1], 100 * target), (3, -3), "data", "offset points")
    left.plot([], [], color=BLUE, label="exact zeros")
    left.plot([], [], ":", color="black", lw=1, label="the ramp asked for")
    left.legend(loc="lower right")
    left.set(xlabel="update", ylabel="exact zeros (%)", title="Asked and got, by an adapted strength")
    asked = 100 * np.array(targets)
    for method, color, marker in (("strength", BLUE, "o"), ("projection", ORANGE, "s")):
        accuracy = [100 * found[method, target].accuracy for target in targets]
        right.plot(asked, accuracy, color=color, marker=marker, ms=4, label=method)
    dense = 100 * found["dense"].accuracy
    right.axhline(dense, color=GREY, lw=1, ls="--", label="dense")
    right.set(xlabel="exact zeros asked for (%)", ylabel="test accuracy (%)", ylim=(dense - 6, 100))
    right.set_title("What it costs")
    right.legend(loc="lower left")
    save(figure, args.output, "target_sparsity.png")


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--model", choices=MODELS, default="mlp")
    options.add_argument("--optimizer", choices=OPTIMIZERS, default="prox_sgd")
    options.add_argument("--groups", action="store_true", help="count units of hidden layers, not weights")
    options.add_argument("--epochs", type=int, default=100)
    options.add_argument(
        "--all", action="store_true", help="all models, optimizers, groups, three seeds: an hour"
    )
    main(options.parse_args())
