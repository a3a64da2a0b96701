"""One strength, every optimizer: the lasso with a prox in the optimizer's own step sizes, and without.

Each optimizer minimises |y - X w|^2 / (2 n) + strength * |w|_1 on the diabetes data twice. Its proximal
form in jaxreg shrinks by its own steps, and must arrive at scikit-learn's coefficients. The optimizer of
optax followed by a prox with the learning rate arrives elsewhere, each at a place of its own. Exits with
1 if a proximal form disagrees with scikit-learn.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from common import BLUE, GREY, ORANGE, new_figure, parser, print_table, save
from sklearn import datasets, linear_model

import jaxreg

TOLERANCE = 1e-6


class Pair(NamedTuple):
    """A proximal form, the optimizer of optax, and a learning rate that suits this problem."""

    proximal: Callable[..., optax.GradientTransformation]
    plain: Callable[..., optax.GradientTransformation]
    rate: float
    options: dict[str, Any]


PAIRS = {
    "sgd, momentum": Pair(jaxreg.prox_sgd, optax.sgd, 0.02, {"momentum": 0.9}),
    "sgd, nesterov": Pair(jaxreg.prox_sgd, optax.sgd, 0.02, {"momentum": 0.9, "nesterov": True}),
    "adam": Pair(jaxreg.prox_adam, optax.adam, 0.01, {}),
    "nadam": Pair(jaxreg.prox_nadam, optax.nadam, 0.01, {}),
    "amsgrad": Pair(jaxreg.prox_amsgrad, optax.amsgrad, 0.05, {}),
    "adabelief": Pair(jaxreg.prox_adabelief, optax.adabelief, 0.01, {"eps": 1e-3}),
    "rmsprop": Pair(jaxreg.prox_rmsprop, optax.rmsprop, 0.003, {}),
    "adagrad": Pair(jaxreg.prox_adagrad, optax.adagrad, 0.3, {}),
}


class Path(NamedTuple):
    """Where an optimizer went: its last coefficients, and its error after each step."""

    w: np.ndarray
    errors: np.ndarray

    def steps_to(self, error: float) -> str:
        below = np.flatnonzero(self.errors < error)
        return f"{below[0] + 1:,}" if len(below) else "never"


@functools.partial(jax.jit, static_argnames=("name", "proximal", "steps"))
def descend(
    name: str, proximal: bool, strength: float, start: jax.Array, x: jax.Array, y: jax.Array, steps: int
) -> jax.Array:
    """The coefficients after each step."""
    pair, penalty = PAIRS[name], jaxreg.l1(strength)
    if proximal:
        optimizer = pair.proximal(pair.rate, penalty, **pair.options)
    else:
        optimizer = optax.chain(pair.plain(pair.rate, **pair.options), jaxreg.proximal(penalty, pair.rate))

    def body(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], jax.Array]:
        w, state = carry
        grads = jax.grad(lambda w: jnp.mean((y - x @ w) ** 2) / 2)(w)
        w, state = jaxreg.step(optimizer, grads, state, w)
        return (w, state), w

    return jax.lax.scan(body, (start, optimizer.init(start)), None, length=steps)[1]


def standardised() -> tuple[np.ndarray, np.ndarray, list[str]]:
    data = datasets.load_diabetes()
    x, y = data.data, data.target
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std(), data.feature_names


def draw(
    found: dict[tuple[str, bool], Path],
    exact: np.ndarray,
    features: Sequence[str],
    strength: float,
    output: pathlib.Path,
) -> None:
    figure = new_figure(10.5, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    position = np.arange(len(features))
    left.bar(position, exact, width=0.85, color=GREY, alpha=0.4, label="scikit-learn's Lasso")
    kinds = {
        True: (BLUE, "o", f"{len(PAIRS)} optimizers of jaxreg: prox_sgd, prox_adam, ..."),
        False: (ORANGE, "D", "the same of optax, then a prox with the learning rate"),
    }
    for proximal, (colour, marker, label) in kinds.items():
        for index, name in enumerate(PAIRS):
            path = found[name, proximal]
            text = label if index == 0 else None
            shift = 0.0 if proximal else 0.7 * (index / (len(PAIRS) - 1) - 0.5)
            left.plot(position + shift, path.w, marker, ms=6 if proximal else 3, color=colour, label=text)
            counts = np.arange(1, len(path.errors) + 1)
            right.plot(counts, np.maximum(path.errors, 1e-16), color=colour, lw=1.1, alpha=0.85)
    left.axhline(0, color="black", lw=0.6)
    left.set_xticks(position, features)
    left.set(ylabel="coefficient", title=f"Where they stop, strength {strength:g}")
    lowest, highest = left.get_ylim()
    left.set_ylim(lowest, highest + 0.35 * (highest - lowest))
    left.legend(loc="upper left")
    right.set(xscale="log", yscale="log", xlabel="step", title="Largest error of a coefficient")
    right.text(1.3, 1e-12, "prox in the optimizer's\nown step sizes", color=BLUE)
    right.text(1.3, 1e-3, "prox with the\nlearning rate", color=ORANGE)
    save(figure, output, "loss_units.png")


def main(args: argparse.Namespace) -> int:
    jax.config.update("jax_enable_x64", True)
    x, y, features = standardised()
    steps = 3_000 if args.quick else 10_000
    start = np.random.default_rng(args.seed).normal(size=x.shape[1])  # the end must not depend on it
    lasso = linear_model.Lasso(alpha=args.strength, fit_intercept=False, tol=1e-14, max_iter=100_000)
    exact = lasso.fit(x, y).coef_

    found, rows, agree = {}, [], True
    for name in tqdm.tqdm(PAIRS, unit="optimizer"):
        row = [name]
        for proximal in (True, False):
            visited = np.asarray(descend(name, proximal, args.strength, start, x, y, steps))
            path = found[name, proximal] = Path(visited[-1], np.abs(visited - exact).max(axis=1))
            row += [f"{path.errors[-1]:.0e}", str(np.sum(path.w == 0))]
            if proximal:
                row.append(path.steps_to(TOLERANCE))
                same_zeros = np.array_equal(path.w == 0, exact == 0)
                agree &= bool(path.errors[-1] < TOLERANCE and same_zeros)
        rows.append(row)
    print_table(
        ["optimizer", "jaxreg: error", "zeros", f"steps to {TOLERANCE:g}", "plain prox: error", "zeros"], rows
    )
    verdict = "agree with" if agree else "DIFFER from"
    print(f"\nThe proximal forms {verdict} scikit-learn, which has {np.sum(exact == 0)} zeros.")
    draw(found, exact, features, args.strength, args.output)
    return 0 if agree else 1


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--strength", type=float, default=0.05, help="of the lasso, in units of the loss")
    sys.exit(main(options.parse_args()))
