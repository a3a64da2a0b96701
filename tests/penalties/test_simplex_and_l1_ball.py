"""simplex and l1_ball against the sorting algorithm, bisection, the lasso and hard inputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxreg

prox = jax.jit(lambda constraint, x, step: constraint.prox(x, step))
optimality = jax.jit(lambda constraint, w, slope: constraint.optimality(w, slope))
double = pytest.mark.usefixtures("x64")


def draw(seed: int, size: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


def sorted_simplex(x: np.ndarray, radius: float) -> np.ndarray:
    """Duchi et al. 2008, figure 1."""
    u = np.sort(x)[::-1]
    excess = (np.cumsum(u) - radius) / np.arange(1, x.size + 1)
    return np.maximum(x - excess[np.flatnonzero(u > excess)[-1]], 0)


def sorted_l1_ball(x: np.ndarray, radius: float) -> np.ndarray:
    return x if np.abs(x).sum() <= radius else np.sign(x) * sorted_simplex(np.abs(x), radius)


def bisected_simplex(x: np.ndarray, step: np.ndarray, radius: float) -> np.ndarray:
    excess = lambda tau: np.maximum(x - tau * step, 0).sum() - radius  # noqa: E731
    low, high = -1.0, 1.0
    while excess(low) < 0:
        low *= 2
    while excess(high) > 0:
        high *= 2
    return np.maximum(x - optimize.brentq(excess, low, high, xtol=1e-16, rtol=1e-15) * step, 0)


HARD = {
    "random": draw(0),
    "ties": np.round(draw(1)),
    "all equal": np.full(30, 0.3),
    "all equal, negative": np.full(30, -7.0),
    "one element": np.array([-3.0]),
    "geometric": 2.0 ** -np.arange(50.0),
    "geometric, negative": -(2.0 ** -np.arange(50.0)),
    "arithmetic": np.arange(30.0),
    "one large": np.array([1e8, *draw(2)]),
    "one small": np.array([-1e8, *draw(3)]),
    "many": draw(4, 3000),
}


@double
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("radius", [1e-6, 1.0, 50.0])
def test_one_step_against_sorting(name: str, radius: float) -> None:
    x = HARD[name]
    tolerance = 1e-14 * max(np.abs(x).max(), radius)
    found = np.asarray(prox(jaxreg.simplex(radius), jnp.asarray(x), 0.1))
    np.testing.assert_allclose(found, sorted_simplex(x, radius), atol=tolerance)
    np.testing.assert_allclose(found.sum(), radius, rtol=1e-13)
    found = np.asarray(prox(jaxreg.l1_ball(radius), jnp.asarray(x), 0.1))
    np.testing.assert_allclose(found, sorted_l1_ball(x, radius), atol=tolerance)


@pytest.mark.parametrize("name", HARD)
def test_single_precision(name: str) -> None:
    x = HARD[name].astype(np.float32)
    for scale in (1e-30, 1.0, 1e28):
        for radius in (1e-30, 1.0, 1e28):
            wide = x.astype(np.float64) * np.float32(scale)
            found = prox(jaxreg.simplex(radius), jnp.asarray(wide, jnp.float32), 1.0)
            tolerance = 16 * 1.2e-7 * np.abs(wide - wide.max()).clip(0, radius).max() + 1e-6 * radius
            np.testing.assert_allclose(found, sorted_simplex(wide - wide.max(), radius), atol=tolerance)


@double
@pytest.mark.parametrize("spread", [1, 4, 10])
@pytest.mark.parametrize("radius", [1e-6, 3.0, 15.0])
def test_a_step_per_element_against_bisection(spread: int, radius: float) -> None:
    x, step = draw(5), 10.0 ** np.random.default_rng(6).uniform(-spread, 1, size=30)
    found = prox(jaxreg.simplex(radius), jnp.asarray(x), jnp.asarray(step))
    np.testing.assert_allclose(found, bisected_simplex(x, step, radius), atol=1e-12)
    found = prox(jaxreg.l1_ball(radius), jnp.asarray(x), jnp.asarray(step))
    np.testing.assert_allclose(found, np.sign(x) * bisected_simplex(np.abs(x), step, radius), atol=1e-12)


def test_single_precision_with_steps_over_many_decades() -> None:
    """The multiplier is far from the largest ratio of element and step, and must still be exact."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=12) * 10.0 ** rng.uniform(-6, 0, size=12) * 10.0 ** rng.uniform(-20, 20)
        step = 10.0 ** rng.uniform(-12, 0, size=12) * 10.0 ** rng.uniform(-10, 10)
        radius = float(np.abs(x).sum() * rng.uniform(0.1, 0.9))
        for constraint in (jaxreg.l1_ball(radius), jaxreg.simplex(radius)):
            found = prox(constraint, jnp.asarray(x, jnp.float32), jnp.asarray(step, jnp.float32))
            np.testing.assert_allclose(np.abs(found).astype(float).sum(), radius, rtol=2e-6)


@double
def test_elements_with_step_zero_stay_and_the_others_make_room() -> None:
    x, step = jnp.array([0.25, 2.0, -3.0, 0.1]), jnp.array([0.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(prox(jaxreg.simplex(1.0), x, step), [0.25, 0.75, 0, 0])
    np.testing.assert_allclose(prox(jaxreg.l1_ball(3.25), x, step), [0.25, 1.0, -2.0, 0])
    np.testing.assert_allclose(prox(jaxreg.l1_ball(0.1), x, step), [0.25, 0, 0, 0])
    np.testing.assert_allclose(prox(jaxreg.simplex(0.1), x, step), [0.25, 0, 0, 0])


@double
def test_lines_along_an_axis() -> None:
    x = np.random.default_rng(7).normal(size=(3, 4, 2))
    along = np.apply_along_axis(sorted_simplex, 1, x, 0.7)
    np.testing.assert_allclose(prox(jaxreg.simplex(0.7, axis=1), jnp.asarray(x), 1.0), along, atol=1e-14)
    np.testing.assert_allclose(prox(jaxreg.simplex(0.7, axis=-2), jnp.asarray(x), 1.0), along, atol=1e-14)
    both = prox(jaxreg.l1_ball(0.7, axis=(0, 2)), jnp.asarray(x), 1.0)
    for column in range(4):
        expected = sorted_l1_ball(x[:, column].ravel(), 0.7).reshape(3, 2)
        np.testing.assert_allclose(both[:, column], expected, atol=1e-14)
    assert jaxreg.simplex(0.7, axis=1)(jnp.asarray(along)) == 0
    assert jaxreg.simplex(0.7)(jnp.asarray(along)) == np.inf


@double
def test_the_budget_and_the_price_of_the_lasso() -> None:
    """The l1 ball is the soft threshold at the price that spends the budget."""
    x = jnp.asarray(draw(8))
    priced = prox(jaxreg.l1(0.3), x, 1.0)
    np.testing.assert_allclose(prox(jaxreg.l1_ball(float(jnp.abs(priced).sum())), x, 1.0), priced, atol=1e-14)


@double
def test_complex_weights_keep_their_phase() -> None:
    x = draw(9) + 1j * draw(10)
    found = prox(jaxreg.l1_ball(2.0), jnp.asarray(x), 1.0)
    np.testing.assert_allclose(found, x / np.abs(x) * sorted_simplex(np.abs(x), 2.0), atol=1e-14)
    distance = optimality(jaxreg.l1_ball(2.0), found, found - x)
    np.testing.assert_allclose(distance, 0, atol=1e-13)


@double
def test_optimality_against_a_search_over_the_multiplier() -> None:
    """The normal cone has one parameter: the best of a fine grid of it."""
    x = np.array([0.5, 0.0, 0.2, 0.3, 0.0])
    for seed in range(5):
        slope = draw(seed, 5)
        grid = np.linspace(-4, 4, 80001)[:, None]
        rest = np.where(x > 0, -slope - grid, np.maximum(-slope - grid, 0))
        found = optimality(jaxreg.simplex(), jnp.asarray(x), jnp.asarray(slope))
        np.testing.assert_allclose(found, np.min(np.linalg.norm(rest, axis=1)), rtol=1e-6)
        sign = np.array([-1, 1, 1, -1, 1])
        rest = np.where(x > 0, -slope * sign - grid, np.maximum(np.abs(slope) - grid, 0))
        found = optimality(jaxreg.l1_ball(1.0), jnp.asarray(x * sign), jnp.asarray(slope))
        np.testing.assert_allclose(found, np.min(np.linalg.norm(rest[40000:], axis=1)), rtol=1e-6)
        inside = optimality(jaxreg.l1_ball(1.1), jnp.asarray(x * sign), jnp.asarray(slope))
        np.testing.assert_allclose(inside, np.linalg.norm(slope))
    for point in (jaxreg.simplex(0.0), jaxreg.l1_ball(0.0)):
        np.testing.assert_array_equal(optimality(point, jnp.zeros(5), jnp.asarray(slope)), 0.0)


@double
def test_second_derivatives() -> None:
    x, step = jnp.asarray(draw(11)), jnp.asarray(10.0 ** np.random.default_rng(12).uniform(-2, 1, size=30))

    def total(radius: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(prox(jaxreg.l1_ball(radius**2), x, step)))

    slope, small = jax.jit(jax.grad(total)), 1e-6
    difference = (slope(2.0 + small) - slope(2.0 - small)) / (2 * small)
    np.testing.assert_allclose(jax.jit(jax.grad(slope))(2.0), difference, rtol=1e-6)


@pytest.mark.parametrize("make", [jaxreg.simplex, jaxreg.l1_ball])
def test_bad_arguments(make: Any) -> None:
    with pytest.raises(
        ValueError, match=r"'radius' parameter of \w+ must be a non-negative number. Got -1.0"
    ):
        make(-1.0)
    for bad in ("0", 1.0, True, ()):
        with pytest.raises(
            TypeError, match=r"'axis' parameter of \w+ must be an integer, a tuple of integers"
        ):
            make(1.0, axis=bad)
    with pytest.raises(
        ValueError, match=r"axis \(1,\) is not in the leaf 'bias' of shape \(3,\). Keep it out"
    ):
        make(1.0, axis=1)({"bias": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"name an axis of the leaf 'w' of shape .* twice"):
        make(1.0, axis=(0, -2))({"w": jnp.ones((2, 2))})
