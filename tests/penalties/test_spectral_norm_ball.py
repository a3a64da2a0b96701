"""spectral_norm_ball against NumPy's decomposition, in both layouts and at equal singular values."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg

double = pytest.mark.usefixtures("x64")


def draw(seed: int, shape: tuple[int, ...] = (5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def clipped(a: np.ndarray, radius: float) -> np.ndarray:
    u, s, vh = np.linalg.svd(a, full_matrices=False)
    return (u * np.minimum(s, radius)) @ vh


@double
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6, 1), (1, 1), (3, 2, 4, 2)])
def test_singular_values_are_clipped(shape: tuple[int, ...]) -> None:
    x = draw(0, shape)
    flax = clipped(x.reshape(-1, shape[-1]), 0.7).reshape(shape)
    np.testing.assert_allclose(jaxreg.spectral_norm_ball(0.7).prox(jnp.asarray(x), 1.0), flax, atol=1e-14)
    torch = clipped(x.reshape(shape[0], -1), 0.7).reshape(shape)
    for layout in ("torch", "equinox"):
        found = jaxreg.spectral_norm_ball(0.7, layout=layout).prox(jnp.asarray(x), 1.0)
        np.testing.assert_allclose(found, torch, atol=1e-14)


@double
def test_complex_and_singular_matrices() -> None:
    x = draw(1) + 1j * draw(2)
    found = jaxreg.spectral_norm_ball(0.7).prox(jnp.asarray(x), 1.0)
    np.testing.assert_allclose(found, clipped(x, 0.7), atol=1e-14)
    rank_one = np.outer(draw(3, (5,)), draw(4, (3,)))
    rank_one[2] = 0.0
    found = np.asarray(jaxreg.spectral_norm_ball(0.1).prox(jnp.asarray(rank_one), 1.0))
    np.testing.assert_allclose(found, rank_one * 0.1 / np.linalg.norm(rank_one, 2), atol=1e-14)
    np.testing.assert_array_equal(found[2], 0.0)
    zero = jnp.zeros((3, 2))
    np.testing.assert_array_equal(jaxreg.spectral_norm_ball(0.1).prox(zero, 1.0), zero)
    np.testing.assert_array_equal(jaxreg.spectral_norm_ball(0.0).prox(zero + 1, 1.0), zero)
    assert jaxreg.spectral_norm_ball(0.1).prox(jnp.zeros((0, 2)), 1.0).shape == (0, 2)


@double
@pytest.mark.parametrize(
    "x", [np.eye(3), 2 * np.eye(4, 3), np.diag([2.0, 2.0, 0.5]), np.zeros((3, 3)), np.ones((4, 3))]
)
def test_derivatives_at_equal_singular_values(x: np.ndarray) -> None:
    """Against differences, along a change that keeps to one side of the edge."""
    weights, along = draw(5, x.shape), jnp.asarray(draw(6, x.shape))

    def total(x: Any, radius: Any) -> jax.Array:
        return jnp.sum(weights * jaxreg.spectral_norm_ball(radius).prox(x, 1.0))

    slope = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(x), 0.7)
    chex.assert_tree_all_finite(slope)
    small, total = 1e-6, jax.jit(total)
    difference = (total(x + small * along, 0.7) - total(x - small * along, 0.7)) / (2 * small)
    np.testing.assert_allclose(np.sum(slope[0] * along), difference, rtol=1e-6, atol=1e-8)


@double
def test_optimality_in_numbers() -> None:
    """At diag(1, 1, 0.5) the cone is that of positive semidefinite 2 by 2 blocks."""
    ball, w = jaxreg.spectral_norm_ball(1.0), jnp.diag(jnp.array([1.0, 1.0, 0.5]))
    pull = np.zeros((3, 3))
    pull[:2, :2] = [[2.0, 1.0], [1.0, 2.0]]
    np.testing.assert_allclose(ball.optimality(w, jnp.asarray(-pull)), 0, atol=1e-12)
    np.testing.assert_allclose(ball.optimality(w, jnp.asarray(pull)), np.linalg.norm(pull))
    pull[:2, :2] = [[1.0, 3.0], [-3.0, 1.0]]  # a rotation leaves the norm as it is
    np.testing.assert_allclose(ball.optimality(w, jnp.asarray(-pull)), np.sqrt(18))
    pull[:2, :2] = [[0.0, 2.0], [2.0, 0.0]]  # of its two eigenvalues one is negative
    np.testing.assert_allclose(ball.optimality(w, jnp.asarray(-pull)), 2.0)
    np.testing.assert_array_equal(jaxreg.spectral_norm_ball(0.0).optimality(0 * w, w), 0)


def test_bad_arguments() -> None:
    with pytest.raises(
        ValueError, match="'radius' parameter of spectral_norm_ball must be a non-negative number"
    ):
        jaxreg.spectral_norm_ball(-1.0)
    with pytest.raises(ValueError, match="'layout' parameter of spectral_norm_ball must be one of"):
        jaxreg.spectral_norm_ball(1.0, layout="jax")
    with pytest.raises(ValueError, match=r"The leaf 'bias' has shape \(3,\): keep it out with mask"):
        jaxreg.spectral_norm_ball(1.0)({"bias": jnp.ones(3)})
    with pytest.raises(ValueError, match="needs one step size for each leaf"):
        jaxreg.spectral_norm_ball(1.0).prox(jnp.ones((2, 2)), jnp.ones((2, 2)))
