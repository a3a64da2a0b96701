"""Optimality against minimisers in closed form, a brute-force distance and formulas of its own."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formulas import SHAPE, columns
from registry import PENALTIES, PenaltyCase

import jaxreg
from jaxreg import groups

cases = pytest.mark.parametrize("case", PENALTIES, ids=str)


def draw(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE) * scale


def at(kernel: Any, bias: Any = 0.0) -> dict[str, Any]:
    return {"layer": {"kernel": jnp.asarray(kernel), "bias": jnp.broadcast_to(bias, SHAPE[1:])}, "hole": None}


@functools.cache
def nearest(case: PenaltyCase) -> Callable[..., jax.Array]:
    return jax.jit(lambda strength, x, step: case.make(strength).prox(at(x), step)["layer"]["kernel"])


@functools.cache
def distances(case: PenaltyCase) -> Callable[..., jax.Array]:
    return jax.jit(lambda s, w, slope: case.make(s).optimality(at(w), at(slope))["layer"]["kernel"])


@cases
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("strength", [0.0, 0.05, 0.6, 20.0])
def test_is_zero_at_the_minimiser_and_only_there(case: PenaltyCase, strength: float) -> None:
    """w = prox(a, 1) minimises |w - a|^2 / 2 + R(w)."""
    target = draw(0)
    w = np.asarray(nearest(case)(strength, target, 1.0))
    distance = distances(case)(strength, w, w - target)
    np.testing.assert_allclose(distance, 0, atol=1e-12)
    moved = w + 0.01 * draw(1)
    assert np.max(distances(case)(strength, moved, moved - target)) > 1e-3


@cases
@pytest.mark.usefixtures("x64")
def test_bounds_the_slope_of_the_objective(case: PenaltyCase) -> None:
    """At any point no direction descends faster than the distance of 0 to the subdifferential."""
    target = draw(2)
    w = np.where(np.abs(draw(3)) < 0.7, 0.0, draw(3))
    w[:, 1] = 0.0
    slope = w - target

    def objective(z: np.ndarray) -> float:
        return case.formula(z, 0.5) + float(np.sum(slope * (z - w)))

    distance = np.asarray(distances(case)(0.5, w, slope))
    rng = np.random.default_rng(4)
    for _ in range(200):
        direction = rng.normal(size=SHAPE)
        descent = (objective(w) - objective(w + 1e-7 * direction)) / 1e-7
        assert descent <= np.sum(distance * np.abs(direction)) + 1e-5
    # And the bound is reached: one step of proximal gradient descends by it.
    tiny = 1e-6
    step = np.asarray(nearest(case)(0.5, w - tiny * slope, tiny)) - w
    assert (np.max(np.abs(step)) > 1e-9) == (np.max(distance) > 1e-3)


@pytest.mark.usefixtures("x64")
def test_l1_in_numbers() -> None:
    w, slope = jnp.array([2.0, -2.0, 0.0, 0.0]), jnp.array([-1.0, -1.0, 0.3, -0.9])
    np.testing.assert_allclose(jaxreg.l1(0.5).optimality(w, slope), [0.5, 1.5, 0.0, 0.4])


@pytest.mark.usefixtures("x64")
def test_group_lasso_in_numbers() -> None:
    """Distance by group, given to each element; at zero: ||g|| - strength."""
    w = draw(5)
    w[:, 0] = 0.0
    slope = draw(6)
    penalty = jaxreg.group_lasso(0.8, groups.outputs(), mask=jaxreg.masks.name("kernel"))
    distance = np.asarray(penalty.optimality(at(w), at(slope))["layer"]["kernel"])
    for number, column in enumerate(columns()):
        size = 0.8 * np.sqrt(column.sum())
        if number == 0:
            expected = max(np.linalg.norm(slope[column]) - size, 0.0)
        else:
            expected = np.linalg.norm(slope[column] + size * w[column] / np.linalg.norm(w[column]))
        np.testing.assert_allclose(distance[column], expected, rtol=1e-12)


def test_where_the_penalty_does_not_reach_it_is_the_gradient() -> None:
    penalty = jaxreg.l1(5.0, mask=jaxreg.masks.name("kernel"))
    distance = penalty.optimality(at(jnp.zeros(SHAPE)), at(jnp.ones(SHAPE), bias=-0.5))
    np.testing.assert_array_equal(distance["layer"]["kernel"], 0.0)
    np.testing.assert_array_equal(distance["layer"]["bias"], 0.5)


def test_leaves_that_are_not_trained_are_at_their_optimum() -> None:
    params = {"w": jnp.ones(2), "steps": jnp.arange(3), "frozen": jnp.ones(2), "hole": None}
    grads = {"w": jnp.ones(2), "steps": jnp.zeros(3, int), "frozen": None, "hole": None}
    distance = jaxreg.l1(1.0).optimality(params, grads)
    np.testing.assert_array_equal(distance["w"], 2.0)
    np.testing.assert_array_equal(distance["steps"], 0.0)
    np.testing.assert_array_equal(distance["frozen"], 0.0)
    assert distance["hole"] is None


@cases
def test_is_jittable_and_finite(case: PenaltyCase) -> None:
    penalty = case.make(0.3)
    jitted = jax.jit(penalty.optimality)
    for w in (np.zeros(SHAPE, np.float32), draw(7).astype(np.float32)):
        slope = draw(8).astype(np.float32)
        eager = penalty.optimality(at(w), at(slope))
        chex.assert_trees_all_equal_shapes(eager, at(w))
        chex.assert_tree_all_finite(eager)
        chex.assert_trees_all_close(jitted(at(w), at(slope)), eager, atol=1e-6)


def test_refuses_gradients_of_another_structure() -> None:
    with pytest.raises(ValueError, match="'grads' must have the tree structure of the parameters"):
        jaxreg.l1(0.1).optimality({"a": jnp.ones(2)}, {"b": jnp.ones(2)})
