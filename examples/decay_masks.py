"""Weight decay on the kernels of a transformer block, in its four usual forms, for Flax Linen and NNX.

scikit-learn's digits, read as sequences of eight rows. A mask picks the kernels; a table says what it
picked, before any training. Then the block is trained with Adam five times: without decay, and with decay
that is coupled (L2 in the loss), decoupled (AdamW's, times the learning rate), independent of the
learning rate, and cautious.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich
import tqdm
from common import BLUE, GREEN, GREY, ORANGE, Images, digits, new_figure, parser, print_table, save
from flax import nnx

import jaxreg

KERNELS = jaxreg.masks.name("kernel")
WIDTH, HEADS, CLASSES, BATCH = 32, 4, 10, 64
PEAK = 3e-3  # of the learning rate
COLOURS = {
    "none": GREY,
    "coupled": ORANGE,
    "decoupled": BLUE,
    "independent": GREEN,
    "cautious": "#8e5ba6",
}


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, rows: jax.Array) -> jax.Array:
        place = self.param("place", nn.initializers.normal(0.02), (rows.shape[-2], WIDTH))
        x = nn.Dense(WIDTH, name="embed")(rows) + place
        x = x + nn.MultiHeadDotProductAttention(HEADS, name="attention")(nn.LayerNorm(name="norm1")(x))
        y = nn.gelu(nn.Dense(2 * WIDTH, name="up")(nn.LayerNorm(name="norm2")(x)))
        x = x + nn.Dense(WIDTH, name="down")(y)
        return nn.Dense(CLASSES, name="classes")(nn.LayerNorm(name="norm3")(x).mean(-2))


class NNXBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.place = nnx.Param(0.02 * jax.random.normal(rngs.params(), (8, WIDTH)))
        self.embed = nnx.Linear(8, WIDTH, rngs=rngs)
        self.norm1, self.norm2, self.norm3 = (nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(3))
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs), nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)
        self.classes = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, rows: jax.Array) -> jax.Array:
        x = self.embed(rows) + self.place[...]
        x = x + self.attention(self.norm1(x))
        x = x + self.down(nnx.gelu(self.up(self.norm2(x))))
        return self.classes(self.norm3(x).mean(-2))


class Model(NamedTuple):
    """A model as a function of its parameters, whichever framework it comes from."""

    params: Any
    logits: Callable[[Any, jax.Array], jax.Array]


def linen_model(seed: int) -> Model:
    block = LinenBlock()
    params = jax.jit(block.init)(jax.random.key(seed), jnp.zeros((1, 8, 8)))["params"]
    return Model(params, lambda params, rows: block.apply({"params": params}, rows))


def nnx_model(seed: int) -> Model:
    graph, params = nnx.split(NNXBlock(nnx.Rngs(seed)), nnx.Param)
    return Model(params, lambda params, rows: nnx.merge(graph, params)(rows))


class Strengths(NamedTuple):
    """How strong each form of decay is; in every run but the first, one of them."""

    coupled: float = 0.0
    decoupled: float = 0.0
    independent: float = 0.0
    cautious: float = 0.0


DECAYS = {
    "none": Strengths(),
    # The number that AdamW calls 1 is 0.5 here, since l2 has no 1/2. But Adam divides what is in the gradient
    # by its size, so that a small part of it decays as much.
    "coupled": Strengths(coupled=1 / 600),
    "decoupled": Strengths(decoupled=1.0),
    # As much in all, because the mean of the schedule is half of its peak.
    "independent": Strengths(independent=PEAK / 2),
    "cautious": Strengths(cautious=1.0),
}


def make_optimizer(strengths: Strengths, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        jaxreg.add_penalty(jaxreg.l2(strengths.coupled, mask=KERNELS)),
        optax.adam(rate),
        jaxreg.weight_decay(strengths.decoupled, learning_rate=rate, mask=KERNELS),
        jaxreg.weight_decay(strengths.independent, mask=KERNELS),
        jaxreg.weight_decay(strengths.cautious, learning_rate=rate, mask=KERNELS, cautious=True),
    )


class Run(NamedTuple):
    norms: np.ndarray  # of all kernels together, after each epoch; the first is the initial one
    accuracy: float


class Trainer:
    """One compiled program for all runs of a model: strengths are arguments, and no constants, of it."""

    def __init__(self, model: Model, images: Images, epochs: int, seed: int):
        self.model, self.images, self.epochs, self.seed = model, images, epochs, seed
        self.rate = optax.cosine_decay_schedule(PEAK, epochs * (len(images.x_train) // BATCH))
        self.epoch = jax.jit(self._epoch)
        self.classes = jax.jit(lambda params: model.logits(params, images.x_test[..., 0]).argmax(-1))

    def loss(self, params: Any, batch: jax.Array) -> jax.Array:
        rows, labels = (
            jnp.asarray(self.images.x_train)[batch, ..., 0],
            jnp.asarray(self.images.y_train)[batch],
        )
        logits = self.model.logits(params, rows)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def _epoch(self, strengths: Strengths, params: Any, state: Any, batches: jax.Array) -> tuple[Any, ...]:
        optimizer = make_optimizer(strengths, self.rate)

        def step(carry: Any, batch: jax.Array) -> tuple[Any, None]:
            params, state = carry
            return jaxreg.step(optimizer, jax.grad(self.loss)(params, batch), state, params), None

        (params, state), _ = jax.lax.scan(step, (params, state), batches)
        return params, state, norm(params)

    def fit(self, strengths: Strengths, progress: Any) -> Run:
        params = self.model.params
        state = make_optimizer(strengths, self.rate).init(params)
        norms = [norm(params)]
        order = np.random.default_rng(self.seed)  # every run sees the same batches
        for _ in range(self.epochs):
            shuffled = order.permutation(len(self.images.x_train))
            batches = shuffled[: len(shuffled) // BATCH * BATCH].reshape(-1, BATCH)
            params, state, after = self.epoch(strengths, params, state, batches)
            norms.append(after)
            progress.update()
        return Run(np.array(norms), float(np.mean(self.classes(params) == self.images.y_test)))


@jax.jit
def norm(params: Any) -> jax.Array:
    """The Euclidean norm of all kernels together."""
    squares = jaxreg.l2(1.0, mask=KERNELS)
    return jnp.sqrt(squares(params))


def draw(runs: dict[str, dict[str, Run]], output: pathlib.Path) -> None:
    figure = new_figure(9, 3.6)
    axes = figure.subplots(1, len(runs), sharey=True)
    for axis, (framework, found) in zip(axes, runs.items(), strict=True):
        for name, run in found.items():
            axis.plot(run.norms, color=COLOURS[name], label=name)
        axis.set(title=f"Flax {framework}: norm of all kernels", xlabel="epoch", ylim=(0, None))
    axes[0].legend()
    save(figure, output, "weight_decay.png")


def main(args: Any) -> None:
    images = digits()
    epochs = 2 if args.quick else args.epochs
    models = {"Linen": linen_model(args.seed), "NNX": nnx_model(args.seed)}
    for framework, model in models.items():
        print(f"\nFlax {framework}: what decays")
        rich.print(jaxreg.describe_decay(1.0, model.params, learning_rate=PEAK, mask=KERNELS))

    runs: dict[str, dict[str, Run]] = {framework: {} for framework in models}
    with tqdm.tqdm(total=epochs * len(models) * len(DECAYS), unit="epoch") as progress:
        for framework, model in models.items():
            trainer = Trainer(model, images, epochs, args.seed)
            for name, strengths in DECAYS.items():
                progress.set_description(f"{framework}, {name}")
                runs[framework][name] = trainer.fit(strengths, progress)

    rows = [
        [f"{framework}, {name}", f"{run.norms[0]:.1f}", f"{run.norms[-1]:.1f}", f"{100 * run.accuracy:.1f} %"]
        for framework, found in runs.items()
        for name, run in found.items()
    ]
    print_table(["decay", "norm before", "and after", "test accuracy"], rows)
    draw(runs, args.output)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=40)
    main(options.parse_args())
