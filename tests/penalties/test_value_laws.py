"""Each value against its formula, and its gradient where zeros are."""

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


def value(case: PenaltyCase, w: np.ndarray) -> jax.Array:
    return case.make(STRENGTH)(parameters(jnp.asarray(w)))


def gradient(case: PenaltyCase, w: np.ndarray) -> np.ndarray:
    penalty, bias = case.make(STRENGTH), jnp.ones(SHAPE[1])
    return np.asarray(jax.grad(lambda k: penalty({"layer": {"kernel": k, "bias": bias}}))(jnp.asarray(w)))


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
        slope = np.asarray(jax.grad(lambda k: jnp.real(value(case, k)))(jnp.asarray(leaf)), np.complex64)
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
    slope = jax.grad(lambda s: case.make(s)(w))(STRENGTH)
    small = 1e-5
    difference = (case.make(STRENGTH + small)(w) - case.make(STRENGTH - small)(w)) / (2 * small)
    np.testing.assert_allclose(slope, difference, rtol=1e-8)


def test_scale_is_a_larger_strength(case: PenaltyCase) -> None:
    w = parameters(jnp.asarray(draw(7), jnp.float32))
    scaled, made = case.make(STRENGTH).scale(2.5), case.make(STRENGTH * 2.5)
    chex.assert_trees_all_close(scaled(w), made(w), rtol=1e-6)
    chex.assert_trees_all_close(scaled.prox(w, 0.3), made.prox(w, 0.3), atol=1e-6)
    traced = jax.jit(lambda factor: case.make(STRENGTH).scale(factor)(w))(2.5)
    chex.assert_trees_all_close(traced, made(w), rtol=1e-6)
