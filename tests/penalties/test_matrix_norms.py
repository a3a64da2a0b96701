"""Norms of singular values against NumPy's decomposition, also where singular values meet or vanish."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxreg

BOTH = [jaxreg.nuclear_norm, jaxreg.spectral_norm]
each = pytest.mark.parametrize("make", BOTH)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def with_singular_values(*values: float, shape: tuple[int, int] = (4, 3)) -> np.ndarray:
    u, _, vh = np.linalg.svd(draw(*shape, seed=len(values)), full_matrices=False)
    return (u * np.array(values)) @ vh


def soft(s: np.ndarray, threshold: float) -> np.ndarray:
    return np.maximum(s - threshold, 0)


def cut(s: np.ndarray, amount: float) -> np.ndarray:
    """Down to the level at which what is cut off adds up to the amount, by a root finder."""
    if s.sum() <= amount:
        return np.zeros_like(s)
    t, amount = s / s.max(), amount / s.max()
    level = optimize.brentq(lambda c: np.maximum(t - c, 0).sum() - amount, 0.0, 1.0, xtol=1e-15)
    return s.max() * np.minimum(t, level)


def reference(make: Callable[..., Any], x: np.ndarray, threshold: float) -> np.ndarray:
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    return (u * (soft if make is jaxreg.nuclear_norm else cut)(s, threshold)) @ vh


AWKWARD = {
    "tall": draw(4, 3),
    "wide": draw(3, 4),
    "single": np.array([[-2.0]]),
    "equal": with_singular_values(2.0, 2.0, 2.0),
    "a pair": with_singular_values(3.0, 1.2, 1.2),
    "rank 1": with_singular_values(2.0, 0.0, 0.0),
    "ones": np.ones((4, 3)),
    "diagonal": np.eye(4, 3) * [3.0, 0.5, 0.5],
    "zero": np.zeros((4, 3)),
}

# Compiled once for each shape.
PROX = {make: jax.jit(lambda x, s, make=make: make(s).prox(x, 1.0)) for make in BOTH}
VALUE = {make: jax.jit(make(1.0)) for make in BOTH}
SLOPE = {make: jax.jit(jax.grad(make(1.0))) for make in BOTH}
OPTIMALITY = {make: jax.jit(lambda x, g, s, make=make: make(s).optimality(x, g)) for make in BOTH}
JVP = {
    make: jax.jit(lambda x, s, dx, ds, make=make: jax.jvp(PROX[make], (x, s), (dx, ds))[1]) for make in BOTH
}
VJP = {make: jax.jit(jax.grad(lambda x, s, dx, make=make: jnp.sum(PROX[make](x, s) * dx))) for make in BOTH}


@pytest.mark.usefixtures("x64")
@each
@pytest.mark.parametrize("name", AWKWARD)
def test_prox_and_value(make: Callable[..., Any], name: str) -> None:
    x = AWKWARD[name]
    s = np.linalg.svd(x, compute_uv=False)
    expected = s.sum() if make is jaxreg.nuclear_norm else s.max()
    np.testing.assert_allclose(make(0.3)(x), 0.3 * expected, rtol=1e-13)
    for strength in (0.0, 0.2, 1.0, 2.4, 40.0):
        point = np.asarray(PROX[make](x, strength))
        np.testing.assert_allclose(point, reference(make, x, strength), atol=1e-12)
        np.testing.assert_allclose(OPTIMALITY[make](point, point - x, strength), 0, atol=1e-11)
        assert np.linalg.matrix_rank(point, tol=1e-9) <= np.linalg.matrix_rank(x, tol=1e-9)


@each
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_float32_over_the_whole_range(make: Callable[..., Any], scale: float) -> None:
    x = (draw(4, 3, seed=3) * scale).astype(np.float32)
    expected = reference(make, x.astype(np.float64), 0.7 * scale)
    point = np.asarray(PROX[make](x, np.float32(0.7 * scale)), np.float64)
    np.testing.assert_allclose(point, expected, atol=16 * 1.2e-7 * np.abs(x).max())
    assert np.all(np.isfinite(SLOPE[make](x)))


@pytest.mark.usefixtures("x64")
@each
@pytest.mark.parametrize("name", AWKWARD)
def test_gradient_is_a_subgradient_of_least_norm(make: Callable[..., Any], name: str) -> None:
    """Finite everywhere; a subgradient: R(z) >= R(x) + <g, z - x>; and 0 is as far as its own norm."""
    x = AWKWARD[name]
    value, slope = VALUE[make], np.asarray(SLOPE[make](x))
    for seed in range(20):
        z = x + draw(*x.shape, seed=seed)
        assert value(z) >= value(x) + np.sum(slope * (z - x)) - 1e-9
    distance = OPTIMALITY[make](x, np.zeros_like(x), 1.0)
    np.testing.assert_allclose(distance, np.linalg.norm(slope), atol=1e-9)


@pytest.mark.usefixtures("x64")
@each
@pytest.mark.parametrize("name", AWKWARD)
def test_derivatives_of_prox_where_singular_values_are_equal(make: Callable[..., Any], name: str) -> None:
    x = AWKWARD[name]
    along = draw(*x.shape, seed=9)
    prox, small = PROX[make], 1e-6
    for strength in (0.3, 0.7):  # the prox has no kink at these
        slope = JVP[make](x, strength, along, 0.0)
        difference = (prox(x + small * along, strength) - prox(x - small * along, strength)) / (2 * small)
        np.testing.assert_allclose(slope, difference, atol=3e-5)
        slope = JVP[make](x, strength, np.zeros_like(x), 1.0)
        difference = (prox(x, strength + small) - prox(x, strength - small)) / (2 * small)
        np.testing.assert_allclose(slope, difference, atol=1e-7)
        assert np.all(np.isfinite(VJP[make](x, strength, along)))


@pytest.mark.usefixtures("x64")
@each
def test_complex_matrices(make: Callable[..., Any]) -> None:
    x = draw(4, 3) + 1j * draw(4, 3, seed=1)
    along = draw(4, 3, seed=2) + 1j * draw(4, 3, seed=3)
    prox = jax.jit(lambda w: make(0.8).prox(w, 1.0))
    np.testing.assert_allclose(prox(x), reference(make, x, 0.8), atol=1e-12)
    np.testing.assert_allclose(make(0.8).optimality(prox(x), prox(x) - x), 0, atol=1e-12)
    difference = (prox(x + 1e-6 * along) - prox(x - 1e-6 * along)) / 2e-6
    np.testing.assert_allclose(jax.jvp(prox, (x,), (along,))[1], difference, atol=1e-7)


@pytest.mark.usefixtures("x64")
@each
@pytest.mark.parametrize(
    ("layout", "shape"), [("flax", (3, 2, 4)), ("torch", (4, 3, 2)), ("equinox", (4, 6))]
)
def test_layouts(make: Callable[..., Any], layout: str, shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    matrix = x.reshape(6, 4) if layout == "flax" else x.reshape(4, 6)
    np.testing.assert_allclose(
        make(0.6, layout=layout).prox({"w": x}, 1.0)["w"].reshape(matrix.shape), reference(make, matrix, 0.6)
    )


@pytest.mark.usefixtures("x64")
def test_optimality_of_the_nuclear_norm_in_numbers() -> None:
    x, slope = np.diag([2.0, 0.0, 0.0]), np.array([[0.0, 0.5, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.4]])
    expected = np.sqrt(1.0**2 + 0.5**2 + 2.0**2)  # u v^T, what is beside it, and beyond 1 on the null space
    np.testing.assert_allclose(jaxreg.nuclear_norm(1.0).optimality(x, slope), expected, rtol=1e-12)


@each
def test_an_empty_matrix_and_a_stack_under_vmap(make: Callable[..., Any]) -> None:
    tree = {"w": jnp.ones((2, 2)), "empty": jnp.ones((0, 3))}
    assert make(0.1).prox(tree, 1.0)["empty"].shape == (0, 3)
    stack = jnp.asarray(draw(3, 4, 2), jnp.float32)
    mapped = jax.vmap(lambda w: make(0.5).prox(w, 1.0))(stack)
    np.testing.assert_allclose(mapped, [reference(make, w, 0.5) for w in np.asarray(stack)], atol=2e-6)


@each
def test_what_is_refused(make: Callable[..., Any]) -> None:
    name = make.__name__
    with pytest.raises(ValueError, match=re.escape(f"The 'strength' parameter of {name} must be a non-neg")):
        make(-1.0)
    with pytest.raises(ValueError, match=f"The 'layout' parameter of {name} must be one of 'flax', 'torch'"):
        make(1.0, layout="caffe")
    words = r"needs at least 2 axes. The leaf 'dense/bias' has shape \(3,\).*mask=jaxreg.masks.weights"
    with pytest.raises(ValueError, match=words):
        make(1.0)({"dense": {"bias": jnp.ones(3)}})
    with pytest.raises(ValueError, match=f"The prox of {name} needs one step size for each leaf"):
        make(1.0).prox({"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2))})
