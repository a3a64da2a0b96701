"""Each prox against oracles that are not its own code: brute force, convexity, the envelope."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formulas import SHAPE
from hypothesis import given
from hypothesis import strategies as st
from registry import PENALTIES, PenaltyCase
from scipy import optimize

CONVEX = [case for case in PENALTIES if case.convex]
every = pytest.mark.parametrize("case", PENALTIES, ids=str)
per_element_ones = pytest.mark.parametrize("case", [case for case in PENALTIES if case.per_element], ids=str)


def in_both_forms(cases: list[PenaltyCase]) -> pytest.MarkDecorator:
    """With one step, and with a step per element where the prox takes that."""
    pairs = [(case, False) for case in cases] + [(case, True) for case in cases if case.per_element]
    ids = [f"{case}-{'step per element' if per_element else 'one step'}" for case, per_element in pairs]
    return pytest.mark.parametrize(("case", "per_element"), pairs, ids=ids)


def in_its_widest_form(cases: list[PenaltyCase]) -> pytest.MarkDecorator:
    """With a step per element where the prox takes that, else with one step."""
    return pytest.mark.parametrize(("case", "per_element"), [(c, c.per_element) for c in cases], ids=str)


ONE_OF_A_KIND = [case for case in PENALTIES if not case.like]
STRENGTH = 0.4


def draw(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE) * scale


def steps_per_element(seed: int) -> np.ndarray:
    """Spread over four decades, some of them 0."""
    rng = np.random.default_rng(seed)
    steps = 10.0 ** rng.uniform(-3, 1, size=SHAPE)
    steps[rng.random(SHAPE) < 0.15] = 0.0
    return steps


def at(kernel: Any, bias: Any = 1.0) -> dict[str, Any]:
    return {"layer": {"kernel": kernel, "bias": jnp.broadcast_to(bias, SHAPE[1:])}}


def sizes_of(step: Any) -> Any:
    return at(step) if np.ndim(step) else step


@functools.cache
def compiled(case: PenaltyCase) -> Callable[..., jax.Array]:
    """The prox, compiled once for all laws; that it is the same when eager is a law of its own."""
    return jax.jit(
        lambda strength, x, step: case.make(strength).prox(at(x), sizes_of(step))["layer"]["kernel"]
    )


def prox(
    case: PenaltyCase, x: np.ndarray, step: float | np.ndarray, strength: float = STRENGTH
) -> np.ndarray:
    return np.asarray(compiled(case)(strength, x, step))


def objective(case: PenaltyCase, z: np.ndarray, x: np.ndarray, step: float | np.ndarray) -> float:
    """The function that prox minimises; elements with step 0 must stay and are left out."""
    step = np.broadcast_to(step, x.shape)
    free = step > 0
    return case.formula(z, STRENGTH) + float(np.sum((z - x)[free] ** 2 / (2 * step[free])))


@pytest.mark.usefixtures("x64")
@in_both_forms(PENALTIES)
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_prox_is_the_minimiser_that_brute_force_finds(
    case: PenaltyCase, per_element: bool, scale: float
) -> None:
    x = draw(0, scale)
    step = steps_per_element(1) if per_element else 0.7
    found = prox(case, x, step)
    free = np.broadcast_to(step, SHAPE) > 0
    np.testing.assert_array_equal(found[~free], x[~free])
    best = objective(case, found, x, step)

    def along(values: np.ndarray) -> float:
        z = x.copy()
        z[free] = values
        return objective(case, z, x, step)

    starts = [x[free], 0.5 * found[free] + 0.01]
    searched = [
        optimize.minimize(along, start, method="Powell", options={"maxfev": 8000}) for start in starts
    ]
    tolerance = 1e-9 * (1 + abs(best))
    assert best <= min(result.fun for result in searched) + tolerance
    rng = np.random.default_rng(2)
    for size in (1e-1, 1e-3, 1e-5):
        for _ in range(30):
            nearby = found + size * rng.normal(size=SHAPE) * free
            assert best <= objective(case, nearby, x, step) + tolerance
            one = found.copy()
            one.flat[rng.choice(np.flatnonzero(free))] += size * rng.normal()
            assert best <= objective(case, one, x, step) + tolerance


@pytest.mark.usefixtures("x64")
@in_both_forms(CONVEX)
def test_prox_is_firmly_non_expansive(case: PenaltyCase, per_element: bool) -> None:
    step = np.maximum(steps_per_element(3), 1e-3) if per_element else 0.7
    for seed in range(10):
        x, y = draw(seed, 3.0), draw(seed + 100, 3.0)
        difference = prox(case, x, step) - prox(case, y, step)
        assert np.sum(difference**2 / step) <= np.sum(difference * (x - y) / step) + 1e-12


@pytest.mark.usefixtures("x64")
@in_its_widest_form(PENALTIES)
def test_gradient_of_the_envelope_is_what_prox_removes(case: PenaltyCase, per_element: bool) -> None:
    """Moreau: grad min_z R(z) + |z - x|^2 / 2s = (x - prox) / s; ties value, prox and both derivatives."""
    step = np.maximum(steps_per_element(4), 1e-3) if per_element else 0.7

    def envelope(x: jax.Array, step: jax.Array) -> jax.Array:
        point = case.make(STRENGTH).prox(at(x), sizes_of(step))
        return case.make(STRENGTH)(point) + jnp.sum((point["layer"]["kernel"] - x) ** 2 / (2 * step))

    x = draw(5, 2.0)
    slope = jax.jit(jax.grad(envelope))(x, step)
    np.testing.assert_allclose(slope, (x - prox(case, x, step)) / step, atol=1e-9)


@pytest.mark.parametrize("case", CONVEX, ids=str)
@given(data=st.data())
def test_what_prox_removes_is_a_subgradient(case: PenaltyCase, data: st.DataObject) -> None:
    """(x - prox) / s is a subgradient at prox: R(z) >= R(prox) + <(x - prox)/s, z - prox> for all z."""
    seed = data.draw(st.integers(0, 10_000))
    strength = data.draw(st.floats(0.0, 5.0))
    step = data.draw(st.floats(1e-3, 10.0))
    scale = data.draw(st.sampled_from([1e-2, 1.0, 1e2]))
    x = draw(seed, scale).astype(np.float32).astype(np.float64)
    point = prox(case, x.astype(np.float32), step, strength).astype(np.float64)
    slope = (x - point) / step
    for z in (draw(seed + 1, scale), np.zeros(SHAPE), x, 2 * point):
        gap = case.formula(z, strength) - case.formula(point, strength) - np.sum(slope * (z - point))
        rounding = np.sum((np.abs(x) / step + strength) * (np.abs(z) + np.abs(point)))
        assert gap >= -3e-6 * (rounding + case.formula(z, strength)) - 1e-12


@per_element_ones
def test_equal_steps_per_element_are_one_step(case: PenaltyCase) -> None:
    x = draw(6).astype(np.float32)
    chex.assert_trees_all_close(prox(case, x, np.full(SHAPE, 0.3, np.float32)), prox(case, x, 0.3), atol=2e-6)


@every
def test_step_zero_is_the_identity(case: PenaltyCase) -> None:
    x = draw(7).astype(np.float32)
    for step in (0.0, np.zeros(SHAPE, np.float32))[: 1 + case.per_element]:
        np.testing.assert_array_equal(prox(case, x, step), x)


@every
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("step", [1e5, 1e8, 1e30])
def test_large_steps_stay_finite_and_reach_zero(case: PenaltyCase, step: float, dtype: np.dtype) -> None:
    x = draw(8).astype(dtype)
    mixed = np.where(np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3, step, 1.0).astype(np.float32)
    for sizes in (step, mixed)[: 1 + case.per_element]:
        out = np.asarray(prox(case, x, sizes), np.float32)
        assert np.all(np.isfinite(out))
    limit = np.asarray(prox(case, x, step), np.float32)
    if case.reaches_zero:
        assert np.all(limit == 0) if case.sparse else np.all(np.abs(limit) < 1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@in_both_forms(PENALTIES)
def test_prox_scales_with_its_argument(case: PenaltyCase, scale: float, per_element: bool) -> None:
    """Extreme magnitudes: with strength scaled too (what has degree 1), prox(c x) = c prox(x)."""
    if not case.homogeneous:
        x = (draw(9) * scale).astype(np.float32)
        assert np.all(np.isfinite(prox(case, x, 0.5)))
        return
    x = draw(9).astype(np.float32)
    step = np.maximum(steps_per_element(10), 1e-3).astype(np.float32) if per_element else 0.5
    expected = prox(case, x, step, STRENGTH) * np.float32(scale)
    scaled = prox(case, (x * np.float32(scale)), step, STRENGTH * scale)
    np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "case", [case for case in PENALTIES if case.per_element and not case.iterative], ids=str
)
def test_prox_is_exact_for_steps_over_ten_decades(case: PenaltyCase) -> None:
    """Optimality of the proximal problem itself, where weights and steps shrink together."""
    rng = np.random.default_rng(13)
    distances = jax.jit(case.make(0.3).optimality)
    for _ in range(5):
        step = 10.0 ** rng.uniform(-8, 2, size=SHAPE)
        x = rng.normal(size=SHAPE) * step
        point = prox(case, x, step, 0.3)
        distance = distances(at(point), at((point - x) / step, bias=0.0))["layer"]["kernel"]
        np.testing.assert_allclose(distance, 0, atol=1e-9)


@every
def test_nan_comes_through(case: PenaltyCase) -> None:
    x = draw(14).astype(np.float32)
    x[2, 1] = np.nan
    for step in (0.3, np.full(SHAPE, 0.3, np.float32))[: 1 + case.per_element]:
        assert np.isnan(prox(case, x, step)[2, 1])


@pytest.mark.usefixtures("x64")
@in_its_widest_form(ONE_OF_A_KIND)
def test_derivatives_where_nothing_is_shrunk(case: PenaltyCase, per_element: bool) -> None:
    """At step 0 the prox is the identity, also to differentiation, zeros included."""
    x, along = draw(15), draw(16)
    x[:, 0] = 0.0
    step = np.zeros(SHAPE) if per_element else 0.0

    @jax.jit
    def derivatives(strength: jax.Array, x: jax.Array, along: jax.Array, step: jax.Array) -> Any:
        def move(strength: jax.Array, w: jax.Array) -> jax.Array:
            return case.make(strength).prox(at(w), sizes_of(step))["layer"]["kernel"]

        primals, tangents = (strength, x), (jnp.ones_like(strength), along)
        return jax.jvp(move, primals, tangents), jax.grad(lambda s: move(s, x).sum())(strength)

    (out, slope), backward = derivatives(STRENGTH, x, along, step)
    np.testing.assert_array_equal(out, x)
    np.testing.assert_allclose(slope, along, atol=1e-12)
    assert np.isfinite(backward)


@pytest.mark.usefixtures("x64")
@in_its_widest_form(ONE_OF_A_KIND)
def test_second_derivative_in_strength(case: PenaltyCase, per_element: bool) -> None:
    x = draw(17, 3.0)
    step = np.maximum(steps_per_element(18), 1e-3) if per_element else 0.3

    def total(strength: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.sum(case.make(strength).prox(at(x), sizes_of(step))["layer"]["kernel"] ** 2)

    slopes, small = jax.jit(jax.value_and_grad(jax.grad(total))), 1e-6
    (before, _), (_, curvature), (after, _) = (slopes(STRENGTH + move, step) for move in (-small, 0.0, small))
    np.testing.assert_allclose(curvature, (after - before) / (2 * small), rtol=1e-5, atol=1e-6)


@every
def test_zeros_and_ties_and_equal_groups(case: PenaltyCase) -> None:
    for x in (np.zeros(SHAPE), np.ones(SHAPE), -np.ones(SHAPE), np.full(SHAPE, 1e-45)):
        out = prox(case, x.astype(np.float32), 0.5)
        assert np.all(np.isfinite(out))
        assert np.all(np.abs(out) <= np.abs(x))
    x = np.zeros(SHAPE, np.float32)
    for step in (0.5, np.full(SHAPE, 0.5, np.float32))[: 1 + case.per_element]:
        np.testing.assert_array_equal(prox(case, x, step), x)


@pytest.mark.usefixtures("x64")
@in_its_widest_form(PENALTIES)
def test_prox_is_differentiable_in_strength_and_steps(case: PenaltyCase, per_element: bool) -> None:
    x = draw(11, 2.0)
    x[:, 0] = 0.0  # a dead group and dead elements
    x[0, 1] = 0.0
    step = steps_per_element(12) if per_element else 0.5

    def total(strength: jax.Array, w: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.sum(case.make(strength).prox(at(w), sizes_of(step))["layer"]["kernel"] ** 2)

    both, small = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2))), 1e-6
    (before, _), (_, slopes), (after, _) = (both(STRENGTH + move, x, step) for move in (-small, 0.0, small))
    chex.assert_tree_all_finite(slopes)
    np.testing.assert_allclose(slopes[0], (after - before) / (2 * small), rtol=1e-5, atol=1e-6)
