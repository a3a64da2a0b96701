"""The lasso by proximal SGD and proximal Adam, against scikit-learn's coordinate descent.

All three minimise |y - X w|^2 / (2 n) + strength * |w|_1 on the diabetes data, so all three must return
the same coefficients: that is what it means for a strength to be in units of the loss. Adam followed
by a prox with the learning rate, for comparison, stops somewhere else. Exits with 1 if one disagrees.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from common import BLUE, GREEN, GREY, ORANGE, new_figure, parser, print_table, save
from sklearn import datasets, linear_model

import jaxreg

TOLERANCE = 1e-5


def prox_sgd(strength: float) -> optax.GradientTransformation:
    return jaxreg.prox_sgd(0.02, jaxreg.l1(strength), momentum=0.9)


def adam_rate(strength: float) -> float:
    # Where the lasso leaves a coefficient alive, its gradient is as large as the strength. Adam divides
    # by that size, so a rate in proportion to the strength gives the same true step size for all.
    return 0.2 * strength


def prox_adam(strength: float) -> optax.GradientTransformation:
    return jaxreg.prox_adam(adam_rate(strength), jaxreg.l1(strength))


def adam_then_prox(strength: float) -> optax.GradientTransformation:
    rate = adam_rate(strength)
    return optax.chain(optax.adam(rate), jaxreg.proximal(jaxreg.l1(strength), rate))


OURS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "prox_sgd": prox_sgd,
    "prox_adam": prox_adam,
}
WRONG_UNITS = "adam, then proximal"
SOLVERS = {**OURS, WRONG_UNITS: adam_then_prox}
STYLE = {"prox_sgd": (BLUE, "o"), "prox_adam": (GREEN, "x"), WRONG_UNITS: (ORANGE, "D")}


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def solve(name: str, strength: float, start: jax.Array, x: jax.Array, y: jax.Array, steps: int) -> jax.Array:
    optimizer = SOLVERS[name](strength)

    def body(_: int, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        w, state = carry
        grads = jax.grad(lambda w: jnp.mean((y - x @ w) ** 2) / 2)(w)
        return jaxreg.step(optimizer, grads, state, w)

    return jax.lax.fori_loop(0, steps, body, (start, optimizer.init(start)))[0]


def standardised() -> tuple[np.ndarray, np.ndarray, list[str]]:
    data = datasets.load_diabetes()
    x, y = data.data, data.target
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std(), data.feature_names


def draw(
    strengths: Sequence[float],
    features: Sequence[str],
    exact: dict[float, np.ndarray],
    found: dict[tuple[str, float], np.ndarray],
    output: pathlib.Path,
) -> None:
    pictured = sorted({strengths[0], strengths[len(strengths) // 2], strengths[-1]})
    figure = new_figure(11, 5.6)
    left, right = figure.subfigures(1, 2, width_ratios=[1.7, 1])
    position = np.arange(len(features))
    panels = left.subplots(len(pictured), 1, sharex=True)
    for axes, strength in zip(panels, pictured, strict=True):
        axes.bar(position, exact[strength], color=GREY, alpha=0.45, label="scikit-learn")
        for shift, name in zip((-0.25, 0, 0.25), SOLVERS, strict=True):
            colour, marker = STYLE[name]
            axes.plot(position + shift, found[name, strength], marker, color=colour, ms=5, label=name)
        axes.axhline(0, color="black", lw=0.6)
        axes.set(ylabel="coefficient", title=f"strength {strength:g}")
    panels[-1].set_xticks(position, features)
    panels[0].legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1.12), borderaxespad=0)

    axes = right.subplots()
    for name in SOLVERS:
        colour, marker = STYLE[name]
        errors = [max(np.abs(found[name, s] - exact[s]).max(), 1e-16) for s in strengths]
        axes.plot(strengths, errors, marker=marker, color=colour, label=name)
    axes.axhline(TOLERANCE, color=GREY, ls="--", lw=0.8)
    axes.annotate("required here", (strengths[0], TOLERANCE), (0, 3), "data", "offset points", color=GREY)
    axes.set(xscale="log", yscale="log", ylim=(3e-17, 10), xlabel="strength")
    axes.set_xticks(strengths, [f"{strength:g}" for strength in strengths])
    axes.set_xticks([], minor=True)
    axes.set_title("largest difference to scikit-learn")
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.45))
    save(figure, output, "lasso_vs_sklearn.png")


def main(args: argparse.Namespace) -> int:
    jax.config.update("jax_enable_x64", True)
    x, y, features = standardised()
    strengths = [0.02, 0.2] if args.quick else [0.01, 0.02, 0.05, 0.1, 0.2, 0.4]
    steps = 10_000 if args.quick else 30_000
    start = np.random.default_rng(args.seed).normal(size=x.shape[1])  # the end must not depend on it

    exact, found, rows, agree = {}, {}, [], True
    for strength in tqdm.tqdm(strengths, unit="strength"):
        lasso = linear_model.Lasso(alpha=strength, fit_intercept=False, tol=1e-14, max_iter=100_000)
        exact[strength] = lasso.fit(x, y).coef_
        for name in SOLVERS:
            w = found[name, strength] = np.asarray(solve(name, strength, start, x, y, steps))
            difference = np.abs(w - exact[strength]).max()
            same_support = np.array_equal(w != 0, exact[strength] != 0)
            agree &= name not in OURS or bool(difference < TOLERANCE and same_support)
            alive = f"{np.sum(w != 0)} / {np.sum(exact[strength] != 0)}"
            rows.append([name, f"{strength:g}", f"{difference:.1e}", alive, "yes" if same_support else "no"])
    print_table(["optimizer", "strength", "max difference", "non-zero / sklearn's", "same support"], rows)
    verdict = "agree with" if agree else "DIFFER from"
    print(f"\nprox_sgd and prox_adam {verdict} scikit-learn (tolerance {TOLERANCE:g}).")
    draw(strengths, features, exact, found, args.output)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main(parser(__doc__).parse_args()))
