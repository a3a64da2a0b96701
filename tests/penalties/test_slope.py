"""SLOPE against skglm, scikit-learn's isotonic regression and brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skglm.penalties import SLOPE
from sklearn.isotonic import isotonic_regression

import jaxreg

N = 10
PROX = jax.jit(lambda x, w, step: jaxreg.slope(w).prox(x, step))
OPTIMALITY = jax.jit(lambda x, g, w: jaxreg.slope(w).optimality(x, g))


def draw(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=N) * scale


VECTORS = {
    "noise": draw(0, 3.0),
    "ties": np.round(draw(1, 3.0)),
    "zeros": np.where(np.arange(N) % 3, draw(2, 3.0), 0.0),
    "equal": np.full(N, -1.5),
    "zero": np.zeros(N),
    "geometric": 10.0 ** -np.arange(N),
}
WEIGHTS = {
    "oscar": 0.1 * np.arange(N, 0, -1),
    "noise": np.sort(np.abs(draw(3)))[::-1],
    "steps": np.repeat([2.0, 0.5], 5),
    "l1": np.full(N, 0.4),
    "linf": np.eye(N)[0] * 2,
    "zero": np.zeros(N),
    "huge": np.linspace(1e6, 0, N),
}


def reference(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.abs(x), kind="stable")
    fit = np.maximum(isotonic_regression(np.abs(x)[order] - weights, increasing=False), 0)
    out = np.zeros(N)
    out[order] = fit
    return np.sign(x) * out


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("weighting", WEIGHTS)
def test_prox_value_and_optimality(vector: str, weighting: str) -> None:
    x, weights = VECTORS[vector], WEIGHTS[weighting]
    penalty = SLOPE(weights)
    for step in (0.3, 1.0, 5.0):
        point = np.asarray(PROX(x, weights, step))
        np.testing.assert_allclose(point, reference(x, step * weights), atol=1e-12)
        np.testing.assert_allclose(point, penalty.prox_vec(x, step), atol=1e-9)
        distance = OPTIMALITY(point, (point - x) / step, weights)
        np.testing.assert_allclose(distance, 0, atol=1e-11 * (1 + weights.max()))
    np.testing.assert_allclose(
        jaxreg.slope(weights)(x), np.sum(weights * np.sort(np.abs(x))[::-1]), rtol=1e-13
    )


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_float32_over_the_whole_range(scale: float) -> None:
    weights = WEIGHTS["oscar"]
    for x in VECTORS.values():
        found = PROX((x * scale).astype(np.float32), (weights * scale).astype(np.float32), np.float32(1.5))
        expected = reference(x, 1.5 * weights) * scale
        np.testing.assert_allclose(found, expected, atol=16 * 1.2e-7 * scale * max(np.abs(x).max(), 1.5))


@pytest.mark.usefixtures("x64")
def test_equal_weights_are_l1_and_one_weight_is_linf() -> None:
    x, slope = draw(4), draw(5)
    for weights, other in (
        (np.full(N, 0.3), jaxreg.l1(0.3)),
        (np.eye(N)[0] * 1.2, jaxreg.group_linf(1.2, jaxreg.groups.layers())),
    ):
        penalty = jaxreg.slope(weights)
        np.testing.assert_allclose(penalty(x), other(x), rtol=1e-14)
        np.testing.assert_allclose(penalty.prox(x, 0.8), other.prox(x, 0.8), atol=1e-14)
        point = penalty.prox(x, 0.8)
        distance = np.linalg.norm(penalty.optimality(point, slope))
        expected = other.optimality(point, slope)
        whole = np.linalg.norm(expected) if penalty(np.ones(N)) > 2 else np.max(expected)
        np.testing.assert_allclose(distance, whole, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_optimality_is_the_distance_to_all_orders_of_a_tie() -> None:
    """Three equal moduli: the nearest mixture of the six orders of their weights, by quadratic search."""
    x, weights = np.array([1.5, -1.5, 1.5]), np.array([2.0, 1.0, 0.2])
    slope = np.array([-1.7, 0.1, -0.9])
    corners = np.array([np.sign(x) * p for p in itertools.permutations(weights)])
    best = np.inf
    rng = np.random.default_rng(0)
    mix = np.full(6, 1 / 6)
    for _ in range(4000):  # Frank-Wolfe with exact steps
        residual = slope + mix @ corners
        best = min(best, np.linalg.norm(residual))
        corner = np.argmin(corners @ residual + 1e-15 * rng.normal(size=6))
        way = corners[corner] - mix @ corners
        length = np.clip(-(residual @ way) / max(way @ way, 1e-30), 0, 1)
        mix = (1 - length) * mix + length * np.eye(6)[corner]
    found = np.linalg.norm(jaxreg.slope(weights).optimality(x, slope))
    assert found <= best + 1e-12
    np.testing.assert_allclose(found, best, rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_derivatives_and_zeros() -> None:
    x, weights = draw(6, 2.0), WEIGHTS["oscar"]
    x[3] = 0.0
    slope = jax.grad(lambda v: jaxreg.slope(weights)(v))(x)
    assert slope[3] == 0
    assert np.all(np.isfinite(slope))
    np.testing.assert_array_equal(PROX(x, weights, 0.0), x)

    def total(x: jax.Array, factor: jax.Array) -> jax.Array:
        return jnp.sum(PROX(x, factor * weights, 0.8) ** 2)

    found = jax.grad(total, (0, 1))(x, 1.1)
    along, small = draw(7), 1e-6
    difference = (total(x + small * along, 1.1) - total(x - small * along, 1.1)) / (2 * small)
    np.testing.assert_allclose(np.sum(found[0] * along), difference, rtol=1e-6)
    difference = (total(x, 1.1 + small) - total(x, 1.1 - small)) / (2 * small)
    np.testing.assert_allclose(found[1], difference, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_sum_with_l1_adds_to_all_weights() -> None:
    x, weights = draw(8, 2.0), WEIGHTS["oscar"]
    both, whole = jaxreg.l1(0.2) + jaxreg.slope(weights), jaxreg.slope(weights + 0.2)
    np.testing.assert_allclose(both.prox(x, 0.9), whole.prox(x, 0.9), atol=1e-15)
    point = both.prox(x, 0.9)
    np.testing.assert_allclose(both.optimality(point, (point - x) / 0.9), 0, atol=1e-14)


def test_under_jit_vmap_and_scale_with_matrices_complex_and_half_precision() -> None:
    weights = jnp.linspace(1.0, 0.0, 6)
    stack = jnp.asarray(np.random.default_rng(9).normal(size=(4, 2, 3)), jnp.float32)
    penalty = jaxreg.slope({"w": weights})
    mapped = jax.vmap(lambda w: penalty.prox({"w": w}, 0.5)["w"])(stack)
    one_by_one = jnp.stack([penalty.prox({"w": w}, 0.5)["w"] for w in stack])
    np.testing.assert_allclose(mapped, one_by_one, atol=1e-6)
    np.testing.assert_allclose(penalty.scale(2.0)({"w": stack[0]}), 2 * penalty({"w": stack[0]}), rtol=1e-6)
    turned = penalty.prox({"w": stack[0] * 1j}, 0.5)["w"]
    np.testing.assert_allclose(turned, one_by_one[0] * 1j, atol=1e-6)
    half = penalty.prox({"w": stack[0].astype(jnp.bfloat16)}, 0.5)["w"]
    assert half.dtype == jnp.bfloat16
    spoiled = penalty.prox({"w": stack[0].at[1, 1].set(jnp.nan)}, 0.5)["w"]
    assert np.isnan(spoiled[1, 1])


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="The 'weights' parameter of slope must be a vector of real numbers"):
        jaxreg.slope(0.5)
    with pytest.raises(
        ValueError, match=r"The 'weights' parameter of slope must be a vector. Got shape \(2, 2\)"
    ):
        jaxreg.slope(jnp.ones((2, 2)))
    for bad, words in (
        ([1.0, 2.0], "Got 2.0 at index 1"),
        ([1.0, -1.0], "Got -1.0"),
        ([np.nan, 0.0], "Got nan"),
    ):
        with pytest.raises(ValueError, match=f"must be non-negative numbers that never rise. {words}"):
            jaxreg.slope(np.array(bad))
    with pytest.raises(
        ValueError, match=r"The leaf 'w' of shape \(2, 2\) needs shape \(4,\). Got shape \(3,\)"
    ):
        jaxreg.slope(jnp.ones(3))({"w": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="The prox of slope needs one step size for each leaf"):
        jaxreg.slope(jnp.ones(3)).prox({"w": jnp.ones(3)}, {"w": jnp.ones(3)})
