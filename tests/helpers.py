"""What several test files need: small trees, training loops, comparisons."""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any
SHAPE = (4, 3)
GRADIENT_STEPS = 3


def parameters(dtype: Any = jnp.float32) -> Tree:
    """A kernel whose first column is zero but for an element, and a bias."""
    kernel = jnp.array([[0.0, 0.7, -0.4], [0.0, -1.1, 0.03], [0.002, 0.5, 0.9], [0.0, 0.06, -1.3]], dtype)
    return {"layer": {"bias": jnp.array([0.0, 0.4, -0.8], dtype), "kernel": kernel}}


def gradients(steps: int = GRADIENT_STEPS, dtype: Any = jnp.float32) -> list[Tree]:
    """Gradients of a few steps; the kernel's first column never gets any."""
    rng = np.random.default_rng(0)

    def draw() -> Tree:
        kernel = rng.normal(size=SHAPE)
        kernel[:, 0] = 0.0
        bias = rng.normal(size=SHAPE[-1])
        return {"layer": {"bias": jnp.asarray(bias, dtype), "kernel": jnp.asarray(kernel, dtype)}}

    return [draw() for _ in range(steps)]


def train(
    optimizer: optax.GradientTransformation,
    grads: Sequence[Tree],
    params: Tree,
    transform: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
) -> tuple[Tree, Tree]:
    """The parameters and the state after one update per gradient; ``transform`` may be ``jax.jit``."""
    update = transform(apply(optimizer))
    state = optimizer.init(params)
    for grad in grads:
        params, state = update(grad, state, params)
    return params, state


def installed(package: str, at_least: str) -> bool:
    """Whether this release of a package or a later one is here."""

    def numbers(release: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", release)[:3]]

    return numbers(version(package)) >= numbers(at_least)


def apply(optimizer: optax.GradientTransformation) -> Callable[..., tuple[Tree, Tree]]:
    """One training step in optax's own words."""

    def update(grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return update


def assert_close(actual: Tree, expected: Tree, rtol: float = 2e-6, atol: float = 1e-7) -> None:
    """Equal structures, dtypes and exact zeros, and values equal to rounding."""
    chex.assert_trees_all_equal_dtypes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)
    chex.assert_trees_all_equal(zeros(actual), zeros(expected))


def assert_same_bits(actual: Tree, expected: Tree) -> None:
    """Equal to the last bit, dtypes and signs of zeros included."""
    chex.assert_trees_all_equal_dtypes(actual, expected)
    chex.assert_trees_all_equal_structs(actual, expected)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def zeros(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: np.asarray(x) == 0, tree)
