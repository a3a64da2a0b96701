"""N:M sparsity against sorting each run, and the projection against all supports of a run."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxreg


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def thin(w: Any, n: int, m: int, axis: int, step: Any = 1.0) -> jax.Array:
    return jaxreg.n_m_sparsity(n, m, axis).prox({"w": w}, {"w": step})["w"]


def by_sorting(w: np.ndarray, n: int, m: int, axis: int) -> np.ndarray:
    out = np.moveaxis(np.array(w), axis, -1)
    runs = out.reshape(-1, m)
    for run in runs:
        run[np.argsort(-np.abs(run), kind="stable")[n:]] = 0
    return np.moveaxis(runs.reshape(out.shape), -1, axis)


@pytest.mark.parametrize(
    ("n", "m", "axis", "shape"),
    [
        (2, 4, -2, (8, 3)),
        (1, 1, 0, (3,)),
        (3, 3, -1, (2, 6)),
        (1, 8, 1, (2, 16, 3)),
        (2, 4, -2, (2, 2, 8, 3)),
        (5, 40, 0, (80,)),
    ],
)
def test_is_what_sorting_each_run_finds(n: int, m: int, axis: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    draws = [
        rng.normal(size=shape),
        rng.integers(-2, 3, size=shape),
        np.ones(shape),
        rng.normal(size=shape) * 1e30,
        rng.integers(0, 4, size=shape) * 1.5e-45,
        rng.normal(size=shape) * 10.0 ** rng.integers(-37, 38, size=shape),
    ]
    for draw in draws:
        w = draw.astype(np.float32)
        found = thin(w, n, m, axis)
        np.testing.assert_array_equal(found, by_sorting(w, n, m, axis))
        assert jaxreg.n_m_sparsity(n, m, axis)(np.asarray(found)) == 0


@pytest.mark.usefixtures("x64")
def test_steps_per_element_against_all_supports() -> None:
    rng = np.random.default_rng(1)
    x, step = rng.normal(size=(6, 5)), 10.0 ** rng.uniform(-3, 2, size=(6, 5))
    step[rng.random((6, 5)) < 0.2] = 0.0
    z = np.asarray(thin(x, 2, 5, 1, step))
    np.testing.assert_array_equal(z[step == 0], x[step == 0])
    for found, point, s in zip(z, x, step, strict=True):
        assert np.all((found == 0) | (found == point))
        fixed = np.flatnonzero(s == 0)
        assert np.count_nonzero(found) == max(2, len(fixed))
        costs = np.where(s > 0, point**2 / np.where(s > 0, s, 1.0), 0.0)
        supports = [np.isin(range(5), c) for c in itertools.combinations(range(5), 2)]
        fitting = [lives for lives in supports if np.all(lives[fixed])] or [s == 0]
        assert np.sum(costs[found == 0]) == min(np.sum(costs[~lives]) for lives in fitting)


def test_of_equals_the_first_is_kept_and_nan_comes_through() -> None:
    w = np.array([1.0, -1.0, 1.0, 2.0, 0.0, 0.0, np.nan, 1.0])
    expected = [1.0, 0.0, 0.0, 2.0, 0.0, 0.0, np.nan, 1.0]
    np.testing.assert_array_equal(thin(w, 2, 4, 0), expected)
    assert jaxreg.n_m_sparsity(4, 4, 0)(w) == np.inf


def test_conjugates_and_rotations_are_equals() -> None:
    w = jnp.array([3 + 4j, -1.0, 4.0, 6j])
    np.testing.assert_array_equal(thin(w, 2, 4, 0), [3 + 4j, 0, 0, 6j])


def test_the_default_axis_is_the_inputs_of_flax() -> None:
    kernel = np.random.default_rng(2).normal(size=(3, 3, 8, 5))
    found = jaxreg.n_m_sparsity(2, 4).prox({"kernel": kernel}, 1.0)["kernel"]
    counts = np.count_nonzero(np.asarray(found).reshape(3, 3, 2, 4, 5), axis=3)
    np.testing.assert_array_equal(counts, 2)


def test_value_and_optimality() -> None:
    penalty = jaxreg.n_m_sparsity(1, 2, 0)
    w, slope = jnp.array([1.0, 0.0, 0.0, 0.0, 3.0, 4.0]), jnp.full(6, 0.5)
    assert penalty(w) == np.inf
    assert penalty(w[:4]) == 0
    np.testing.assert_array_equal(penalty.optimality(w, slope), [0.5, 0.0, 0.5, 0.5, np.inf, np.inf])
    both = penalty + jaxreg.l1(0.25)
    np.testing.assert_array_equal(both.optimality(w[:4], slope[:4]), [0.75, 0.0, 0.25, 0.25])


def test_l1_before_it_is_exact() -> None:
    x, step = np.array([1.0, 0.9, -0.5, 2.0]), np.array([1.0, 0.1, 0.2, 4.0])
    found = (jaxreg.n_m_sparsity(1, 2, 0) + jaxreg.l1(0.5)).prox({"w": x}, {"w": step})["w"]
    # Gains: (|x| - s/2)^2 / 2s is 0.125 and 3.6, then 0.4 and 0.
    np.testing.assert_allclose(found, [0.0, 0.85, -0.4, 0.0], rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_shards_of_whole_runs_exchange_nothing_but_the_value(axis: int) -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    sharding = NamedSharding(mesh, PartitionSpec(*(["d", None] if axis == 0 else [None, "d"])))
    w = np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32)
    compiled = thin.lower(jax.device_put(w, sharding), 2, 4, 0).compile()
    found = compiled(jax.device_put(w, sharding))
    np.testing.assert_array_equal(found, by_sorting(w, 2, 4, 0))
    assert not any(
        word in compiled.as_text() for word in ("all-gather", "all-reduce", "all-to-all", "permute")
    )


def test_a_run_of_four_costs_no_memory() -> None:
    compiled = thin.lower(jax.ShapeDtypeStruct((1024, 512), np.float32), 2, 4, 0).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1024 * 512


@pytest.mark.parametrize("bad", [0, 5, -1])
def test_n_out_of_range(bad: int) -> None:
    with pytest.raises(
        ValueError, match=f"'n' parameter of n_m_sparsity must be from 1 to m, which is 4. Got {bad}"
    ):
        jaxreg.n_m_sparsity(bad, 4)


def test_other_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"'m' parameter of n_m_sparsity must be at least 1. Got 0"):
        jaxreg.n_m_sparsity(1, 0)
    for bad in ((2.0, 4, 0), (2, "4", 0), (2, 4, None), (True, 4, 0)):
        with pytest.raises(TypeError, match=r"parameter of n_m_sparsity must be a whole number. Got"):
            jaxreg.n_m_sparsity(*bad)
    params = {"kernel": jnp.ones((6, 2)), "bias": jnp.ones(4)}
    words = r"n_m_sparsity\(2, 4\) needs axis -2 of the leaf 'kernel' to be a multiple of 4. Got 6."
    with pytest.raises(ValueError, match=words):
        jaxreg.n_m_sparsity(2, 4, mask=jaxreg.masks.weights).prox(params, 1.0)
    words = r"axis -2 of n_m_sparsity is not in the leaf 'bias' of shape \(4,\).*mask=jaxreg.masks.weights"
    with pytest.raises(ValueError, match=words):
        jaxreg.n_m_sparsity(2, 3)(params)
