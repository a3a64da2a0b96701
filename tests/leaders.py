"""NumPy oracles for optimizers that minimise a model of all gradients: the models, solved slowly."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import jaxreg
from jaxreg import groups

SHAPE = (4, 3)
Gradient = Callable[[int, np.ndarray], np.ndarray]


def gradient(t: int, w: np.ndarray) -> np.ndarray:
    """Of a quadratic whose scale differs by element, with noise that depends on t alone."""
    noise = np.random.default_rng(t).normal(size=SHAPE)
    return SCALE * (w - TARGET) + 0.3 * noise


SCALE = np.linspace(0.3, 2.0, 12).reshape(SHAPE)
TARGET = np.linspace(-2.0, 0.5, 12).reshape(SHAPE) * np.array([1.0, 0.6, 0.1])
STARTS = {"zeros": np.zeros(SHAPE), "elsewhere": 0.3 * np.random.default_rng(99).normal(size=SHAPE)}


def soft(x: np.ndarray, threshold: Any) -> np.ndarray:
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)


def shrink_columns(x: np.ndarray, threshold: float) -> np.ndarray:
    norm = np.linalg.norm(x, axis=0)
    return x * np.maximum(1 - threshold / np.where(norm > 0, norm, 1), 0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A penalty, and its prox for ONE step size, by hand."""

    penalty: jaxreg.Penalty
    prox: Callable[[np.ndarray, float], np.ndarray]


ROOT = np.sqrt(SHAPE[0])  # the weight of a column
PENALTIES = {
    "l1": Case(jaxreg.l1(0.3), lambda x, s: soft(x, 0.3 * s)),
    "l1 + l2": Case(jaxreg.l1(0.3) + jaxreg.l2(0.2), lambda x, s: soft(x, 0.3 * s) / (1 + 2 * 0.2 * s)),
    "group_lasso": Case(
        jaxreg.group_lasso(0.4, groups.outputs()), lambda x, s: shrink_columns(x, 0.4 * ROOT * s)
    ),
    "sparse_group_lasso": Case(
        jaxreg.sparse_group_lasso(0.3, groups.outputs(), 0.4),
        lambda x, s: shrink_columns(soft(x, 0.3 * 0.4 * s), 0.3 * 0.6 * ROOT * s),
    ),
}


def argmin(
    pull: np.ndarray, centres: Sequence[tuple[np.ndarray, np.ndarray]], weight: float, case: Case
) -> np.ndarray:
    """``argmin_w <pull, w> + sum over centres (c, m) of sum_i c_i (w_i - m_i)^2 / 2 + weight R(w)``.

    By accelerated proximal gradients, so with one step size for all elements.
    """
    curvature = sum(c for c, _ in centres)
    linear = pull - sum(c * m for c, m in centres)
    step = 1 / curvature.max()
    kappa = np.sqrt(curvature.max() / curvature.min())
    momentum = (kappa - 1) / (kappa + 1)
    w = old = np.zeros(SHAPE)
    for _ in range(2_000):
        ahead = w + momentum * (w - old)
        old, w = w, case.prox(ahead - step * (curvature * ahead + linear), step * weight)
        if np.abs(w - old).max() < 1e-13:
            break
    return w


def run(
    optimizer: optax.GradientTransformation, start: np.ndarray, steps: int, grad: Gradient = gradient
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The parameters before each step and after the last, and the gradients."""
    w = jnp.asarray(start)
    state = optimizer.init(w)
    path, grads = [np.asarray(w)], []
    for t in range(steps):
        grads.append(grad(t, path[-1]))
        updates, state = optimizer.update(jnp.asarray(grads[-1]), state, w)
        w = optax.apply_updates(w, updates)
        path.append(np.asarray(w))
    return path, grads


def assert_same_path(
    actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], **tolerance: float
) -> None:
    """Equal points, and the same exact zeros, of which there are some but not only."""
    np.testing.assert_allclose(actual, expected, **({"rtol": 1e-9, "atol": 1e-11} | tolerance))
    np.testing.assert_array_equal(np.asarray(actual) == 0, np.asarray(expected) == 0)
    assert 0 < np.mean(np.asarray(actual)[1:] == 0) < 1
