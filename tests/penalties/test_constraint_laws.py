"""Every constraint's prox is the nearest point of its set; its value, optimality and derivatives."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from constraint_cases import (
    CONSTRAINTS,
    SIZE,
    ConstraintCase,
    at,
    draw,
    optimality,
    project,
    projected,
    size_of,
    steps_of,
)
from formulas import SHAPE

import jaxreg

every = pytest.mark.parametrize("case", CONSTRAINTS, ids=str)
convex = pytest.mark.parametrize("case", [case for case in CONSTRAINTS if case.convex], ids=str)
in_both_forms = pytest.mark.parametrize(
    ("case", "per_element"),
    [(case, False) for case in CONSTRAINTS] + [(case, True) for case in CONSTRAINTS if case.per_element],
    ids=str,
)
double = pytest.mark.usefixtures("x64")


# The nearest point of the set


@double
@in_both_forms
@pytest.mark.parametrize("scale", [0.05, 1.0, 10.0])
def test_is_in_the_set_and_no_other_point_of_it_is_nearer(
    case: ConstraintCase, per_element: bool, scale: float
) -> None:
    x, step, size = draw(0) * scale, steps_of(per_element), size_of(case)
    found = project(case, x, step)
    assert case.excess(found, size) <= 1e-13

    def distance(z: np.ndarray) -> float:
        return float(np.sum((z - x) ** 2 / step))

    rng = np.random.default_rng(1)
    for spread in (10.0, 1.0, 1e-1, 1e-3, 1e-5):
        for near in (found, x):
            for _ in range(20):
                other = case.sample(near + spread * rng.normal(size=SHAPE), size)
                assert case.excess(other, size) <= 1e-9
                assert distance(found) <= distance(other) * (1 + 1e-8) + 1e-12


@double
@every
def test_what_is_inside_stays(case: ConstraintCase) -> None:
    x = case.sample(draw(2), size_of(case))
    np.testing.assert_allclose(project(case, x), x, atol=1e-14)
    once = project(case, 3 * draw(3))
    np.testing.assert_allclose(project(case, once), once, atol=1e-14)


@every
def test_an_interior_point_keeps_its_bits(case: ConstraintCase) -> None:
    x = case.sample(draw(2), size_of(case)).astype(np.float32)
    if case.has_zero and case.sized:
        x = x / 2
        np.testing.assert_array_equal(project(case, x), x)


@double
@convex
def test_projection_is_firmly_non_expansive(case: ConstraintCase) -> None:
    for per_element in (False, True)[: 1 + case.per_element]:
        step = steps_of(per_element, 3)
        for seed in range(8):
            x, y = 3 * draw(seed), 3 * draw(seed + 100)
            difference = project(case, x, step) - project(case, y, step)
            assert np.sum(difference**2 / step) <= np.sum(difference * (x - y) / step) + 1e-11


@every
def test_equal_steps_per_element_are_one_step_of_any_length(case: ConstraintCase) -> None:
    x = draw(4, np.float32)
    expected = project(case, x, 0.3)
    for step in (1e-10, 7.0, 1e30):
        np.testing.assert_array_equal(project(case, x, step), expected)
    if case.per_element:
        for step in (1e-30, 0.3, 1e30):
            found = project(case, x, np.full(SHAPE, step, np.float32))
            np.testing.assert_allclose(found, expected, atol=1e-6)


@every
def test_step_zero_is_the_identity(case: ConstraintCase) -> None:
    x = draw(5, np.float32)
    np.testing.assert_array_equal(project(case, x, 0.0), x)
    out, slope = jax.jvp(lambda w: projected(case.make, w, 0.0, SIZE), (x,), (x,))
    np.testing.assert_array_equal((out, slope), (x, x))
    if case.per_element:
        step = steps_of(True).astype(np.float32)
        step[np.random.default_rng(6).random(SHAPE) < 0.4] = 0.0
        found = project(case, x, step)
        np.testing.assert_array_equal(found[step == 0], x[step == 0])
        assert np.all(np.isfinite(found))


@every
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_huge_and_tiny_magnitudes(case: ConstraintCase, scale: float) -> None:
    x, size = draw(7, np.float32), size_of(case)
    steps = [0.7, *([np.float32(steps_of(True))] if case.per_element else [])]
    for step in steps:
        assert np.all(np.isfinite(project(case, x * np.float32(scale), step)))
        if case.sized:
            scaled = project(case, x * np.float32(scale), step, size * scale)
            np.testing.assert_allclose(scaled / scale, project(case, x, step), rtol=1e-4, atol=1e-5)
            # And a set that is 30 decades away from the point, in both directions.
            assert case.excess(project(case, x * np.float32(scale), step, 1.0).astype(float), 1.0) < 1e-5
            assert case.excess(project(case, x, step, scale).astype(float) / scale, 1.0) < 1e-5


@every
def test_zeros_ties_and_denormals(case: ConstraintCase) -> None:
    for x in (np.zeros(SHAPE), np.ones(SHAPE), -np.ones(SHAPE), np.full(SHAPE, 1e-45)):
        for step in (0.5, np.full(SHAPE, 0.5, np.float32))[: 1 + case.per_element]:
            found = project(case, x.astype(np.float32), step)
            assert case.excess(found.astype(float), size_of(case)) < 1e-6
            if case.has_zero:
                assert np.all(found[x == 0] == 0)


@every
def test_nan_comes_through(case: ConstraintCase) -> None:
    x = draw(8, np.float32)
    x[2, 1] = np.nan
    for step in (0.3, np.full(SHAPE, 0.3, np.float32))[: 1 + case.per_element]:
        assert np.isnan(project(case, x, step)[2, 1])
    assert jax.jit(case.make(SIZE))(at(x)) == np.inf


# The value, and optimality


@every
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_value_is_zero_inside_and_infinite_outside(case: ConstraintCase, dtype: Any) -> None:
    outside = at(5 * draw(9).astype(dtype))

    @jax.jit
    def values(constraint: jaxreg.Penalty) -> Any:
        inside = constraint.prox(outside, 1.0)
        value = jax.value_and_grad(lambda kernel: constraint(at(kernel)))
        return [value(tree["layer"]["kernel"]) for tree in (outside, inside)]

    (far, push), (near, pull) = values(case.make(SIZE))
    assert (far, near, near.dtype) == (np.inf, 0.0, jnp.float32)
    assert not np.any(push)
    assert not np.any(pull)
    assert values(case.make(SIZE).scale(0.0))[0][0] == np.inf


@double
@every
def test_optimality_is_zero_at_a_stationary_point_and_only_there(case: ConstraintCase) -> None:
    target = 2 * draw(10)
    for scale in (0.01, 1.0):
        w = project(case, scale * target)
        np.testing.assert_allclose(optimality(case, w, w - scale * target), 0, atol=1e-12)
    assert np.max(optimality(case, w, w - 2 * draw(11))) > 1e-2
    assert np.max(optimality(case, 5 * draw(9), w)) == np.inf


@double
@convex
def test_optimality_is_how_far_the_projection_follows_the_gradient(case: ConstraintCase) -> None:
    """Moreau: the distance of v to the normal cone is the length of v's part in the tangent cone."""
    tiny = 1e-7
    for scale in (0.05, 1.0):
        w = project(case, scale * draw(12))
        slope = draw(13)
        moved = (project(case, w - tiny * slope) - w) / tiny
        expected = np.abs(moved)
        for m in case.members() if case.members else []:
            expected[m] = np.linalg.norm(moved[m])
        np.testing.assert_allclose(optimality(case, w, slope), expected, rtol=1e-5, atol=1e-5)


# Derivatives


@double
@in_both_forms
def test_derivatives_against_differences(case: ConstraintCase, per_element: bool) -> None:
    x, along, step = jnp.asarray(draw(14)), jnp.asarray(draw(15)), steps_of(per_element)
    weights, small = jnp.asarray(draw(16)), 1e-6

    def total(x: Any, step: Any, size: Any) -> jax.Array:
        return jnp.sum(weights * projected(case.make, x, step, size))

    slopes = jax.grad(total, (0, 1, 2))(x, step, size_of(case))
    chex.assert_tree_all_finite(slopes)
    difference = (total(x + small * along, step, SIZE) - total(x - small * along, step, SIZE)) / (2 * small)
    np.testing.assert_allclose(np.sum(slopes[0] * along), difference, rtol=1e-6, atol=1e-7)
    difference = (total(x, step, SIZE + small) - total(x, step, SIZE - small)) / (2 * small)
    np.testing.assert_allclose(slopes[2], difference, rtol=1e-6, atol=1e-7)
    change = step * small * (np.abs(along) if per_element else 1.0)
    difference = (total(x, step + change, SIZE) - total(x, step - change, SIZE)) / 2
    np.testing.assert_allclose(np.sum(slopes[1] * change), difference, rtol=1e-5, atol=1e-12)


@every
def test_derivatives_are_finite_at_zeros_and_ties(case: ConstraintCase) -> None:
    steps = [0.5, *([jnp.full(SHAPE, 0.5).at[0].set(0.0)] if case.per_element else [])]
    points = [np.zeros(SHAPE), np.ones(SHAPE), draw(17) * (np.arange(4) > 1), draw(18) * 1e-30]
    xs, sizes = jnp.asarray(np.repeat(points, 2, axis=0), jnp.float32), jnp.array([0.0, SIZE] * len(points))
    for step in steps:
        total = lambda x, size, s=step: jnp.sum(projected(case.make, x, s, size) ** 2)  # noqa: E731
        chex.assert_tree_all_finite(jax.jit(jax.vmap(jax.grad(total, (0, 1))))(xs, sizes))
