"""Each value against its formula, and its gradient where zeros are."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formulas import SHAPE
from registry import PENALTIES, PenaltyCase, parameters, refuses

pytestmark = pytest.mark.parametrize("case", PENALTIES, ids=str)

STRENGTH = 0.4


def draw(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE) * scale


@functools.cache
def compiled(case: PenaltyCase) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Value and gradient, compiled once for all laws of this file."""

    @jax.jit
    def both(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = case.make(STRENGTH)(parameters(kernel))
        return found, jax.grad(lambda k: jnp.real(case.make(STRENGTH)(parameters(k))))(kernel)

    return both


def value(case: PenaltyCase, w: np.ndarray) -> jax.Array:
    return compiled(case)(w)[0]


def gradient(case: PenaltyCase, w: np.ndarray) -> np.ndarray:
    return np.asarray(compiled(case)(w)[1])


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(np.float32, 2e-6), (jnp.bfloat16, 2e-6), (np.float16, 2e-6), (np.complex64, 2e-6)],
)
def test_value_is_the_formula(case: PenaltyCase, dtype: np.dtype, tolerance: float) -> None:
    if refuses(case, dtype):
        return
    w = draw(0).astype(dtype)
    if dtype == np.complex64:
        w = w + 1j * draw(1).astype(dtype)
    found = value(case, w)
    assert found.shape == ()
    assert found.dtype == jnp.float32
    wide = w.astype(np.complex128 if dtype == np.complex64 else np.float64)
    np.testing.assert_allclose(found, case.formula(wide, STRENGTH), rtol=tolerance)


@pytest.mark.usefixtures("x64")
def test_value_and_gradient_in_double_precision(case: PenaltyCase) -> None:
    w = draw(2)
    found = value(case, w)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, case.formula(w, STRENGTH), rtol=1e-13)
    slope = gradient(case, w)
    for index in ((0, 0), (3, 2), (5, 3)):
        up, down = w.copy(), w.copy()
        up[index] += 1e-6
        down[index] -= 1e-6
        difference = (case.formula(up, STRENGTH) - case.formula(down, STRENGTH)) / 2e-6
        np.testing.assert_allclose(slope[index], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16, np.complex64])
def test_no_push_and_no_nan_at_zeros(case: PenaltyCase, dtype: np.dtype) -> None:
    if refuses(case, dtype):
        return
    w = draw(3).astype(dtype)
    w[:, 1] = 0
    w[2, :] = 0
    w[4, 3] = 0
    for leaf in (w, np.zeros(SHAPE, dtype)):
        slope = gradient(case, leaf).astype(np.complex64)
        assert np.all(np.isfinite(slope))
        if not case.pushes_zeros:
            np.testing.assert_array_equal(slope[leaf == 0], 0)
        if not case.flat:
            assert leaf.any() == slope.any()


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-10, 1e10, 1e18])
def test_value_and_gradient_are_finite_where_representable(case: PenaltyCase, scale: float) -> None:
    w = (draw(4) * scale).astype(np.float32)
    found, slope = value(case, w), gradient(case, w)
    assert np.isfinite(found)
    assert np.all(np.isfinite(slope))
    np.testing.assert_allclose(found, case.formula(w.astype(np.float64), STRENGTH), rtol=1e-5, atol=1e-37)
    assert case.flat or np.all(slope[w != 0] != 0)


def test_norms_reach_over_the_whole_range_of_floats(case: PenaltyCase) -> None:
    """1e30 squared is not a float32, its norm is: where only the square is penalised, inf is right."""
    w = (draw(5) * 1e30).astype(np.float32)
    expected = case.formula(w.astype(np.float64), STRENGTH)
    np.testing.assert_allclose(value(case, w), expected if expected < 3e38 else np.inf, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_derivative_in_strength_is_the_penalty_per_strength(case: PenaltyCase) -> None:
    w = parameters(jnp.asarray(draw(6)))
    both, small = jax.jit(jax.value_and_grad(lambda s: case.make(s)(w))), 1e-5
    difference = (both(STRENGTH + small)[0] - both(STRENGTH - small)[0]) / (2 * small)
    np.testing.assert_allclose(both(STRENGTH)[1], difference, rtol=1e-8)


def test_scale_is_a_larger_strength(case: PenaltyCase) -> None:
    w = parameters(jnp.asarray(draw(7), jnp.float32))

    @jax.jit
    def both(factor: jax.Array) -> Any:
        scaled, made = case.make(STRENGTH).scale(2.5), case.make(STRENGTH * 2.5)
        traced = case.make(STRENGTH).scale(factor)
        return [(penalty(w), penalty.prox(w, 0.3)) for penalty in (scaled, traced, made)]

    *scaled, made = both(2.5)
    for one in scaled:
        chex.assert_trees_all_close(one, made, rtol=1e-6, atol=1e-6)
