"""Overlapping groups: the prox against a solver of its own, special cases, derivatives, the stated error."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import groups

SHAPE = (6, 5)
BOTH = [groups.outputs(), groups.inputs()]
x64 = pytest.mark.usefixtures("x64")


def draw(seed: int, scale: float = 1.0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * scale


def members() -> list[tuple[float, np.ndarray]]:
    """Every column and row with the factor of its norm."""
    row, column = np.indices(SHAPE)
    masks = [column == n for n in range(SHAPE[1])] + [row == n for n in range(SHAPE[0])]
    return [(np.sqrt(mask.sum()), mask) for mask in masks]


def dual_prox(x: np.ndarray, radii: list[tuple[float, np.ndarray]], passes: int = 400) -> np.ndarray:
    """x without its projection on a sum of balls, one group at a time."""
    z, pulls = x.copy(), [np.zeros(mask.sum()) for _, mask in radii]
    for _ in range(passes):
        for number, (radius, mask) in enumerate(radii):
            free = z[mask] + pulls[number]
            size = np.linalg.norm(free)
            pulls[number] = free * min(1.0, radius / size) if size else free
            z[mask] = free - pulls[number]
    return z


def penalty(strength: Any = 0.2, structures: Any = BOTH) -> jaxreg.Penalty:
    return jaxreg.overlapping_group_lasso(strength, structures)


@x64
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_prox_and_value_against_a_dual_solver(scale: float) -> None:
    x = draw(0, scale)
    found = np.asarray(penalty().prox({"w": x}, 0.7)["w"])
    expected = dual_prox(x, [(0.14 * factor, mask) for factor, mask in members()])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    value = 0.2 * sum(factor * np.linalg.norm(x[mask]) for factor, mask in members())
    np.testing.assert_allclose(penalty()({"w": x}), value, rtol=1e-13)
    narrow = penalty().prox({"w": jnp.asarray(x, jnp.float32)}, 0.7)["w"]
    np.testing.assert_allclose(narrow, found, atol=64 * np.finfo(np.float32).eps * np.max(abs(x)))


@x64
def test_zeros_are_unions_of_groups_and_exact() -> None:
    x = draw(1)
    x[:, 1] *= 0.01
    x[2] *= 0.01
    for dtype in (jnp.float32, jnp.float64):
        z = np.asarray(penalty().prox(jnp.asarray(x, dtype), 0.7))
        dead_rows, dead_columns = ~z.any(axis=1), ~z.any(axis=0)
        assert dead_rows[2]
        assert dead_columns[1]
        np.testing.assert_array_equal(z == 0, dead_rows[:, None] | dead_columns)
        assert not np.all(z == 0)


@x64
def test_special_cases_are_the_penalties_with_those_names() -> None:
    x, grads = {"w": jnp.asarray(draw(2))}, {"w": jnp.asarray(draw(3))}
    step = {"w": jnp.asarray(10.0 ** np.random.default_rng(4).uniform(-1, 1, SHAPE))}
    elements, units = groups.blocks((1,)), groups.outputs()
    one = penalty(0.3, [units]), jaxreg.group_lasso(0.3, units)
    mixed = penalty(0.15, [units, elements]), jaxreg.sparse_group_lasso(0.3, units, 0.5)
    levels = [groups.chunks(2, axis=0), units]
    nested = penalty(0.2, levels[::-1]), jaxreg.hierarchical_group_lasso(0.2, levels)
    for ours, theirs in (one, mixed, nested):
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-13)
        np.testing.assert_allclose(ours.prox(x, 0.5)["w"], theirs.prox(x, 0.5)["w"], atol=1e-12)
    for ours, theirs in (one, mixed):
        np.testing.assert_allclose(ours.prox(x, step)["w"], theirs.prox(x, step)["w"], atol=1e-10)
    at = {"w": jnp.where(jnp.abs(x["w"]) > 0.5, x["w"], 0.0).at[:, 1].set(0.0)}
    ours, theirs = (np.asarray(side.optimality(at, grads)["w"]) for side in mixed)
    # Ours per element, theirs per group.
    np.testing.assert_allclose(np.linalg.norm(ours, axis=0), theirs[0], atol=1e-9)


@x64
def test_l1_is_one_more_structure_below() -> None:
    x, grads = {"w": jnp.asarray(draw(14))}, {"w": jnp.asarray(draw(15))}
    step = {"w": jnp.asarray(10.0 ** np.random.default_rng(16).uniform(-1, 1, SHAPE))}
    added, whole = jaxreg.l1(0.2) + penalty(), penalty(0.2, [groups.blocks((1,)), *BOTH])
    np.testing.assert_allclose(added(x), whole(x), rtol=1e-13)
    for sizes in (0.7, step):
        found = added.prox(x, sizes)
        np.testing.assert_allclose(found["w"], whole.prox(x, sizes)["w"], atol=1e-9)
        np.testing.assert_allclose(
            added.optimality(found, grads)["w"], whole.optimality(found, grads)["w"], atol=1e-9
        )
    assert 0 < np.count_nonzero(found["w"]) < x["w"].size


@x64
def test_optimality_is_the_distance_that_a_solver_finds() -> None:
    w, grads = draw(5), draw(6)
    w[:, 1], w[2], w[0, 0] = 0.0, 0.0, 0.0
    rest, free = grads.copy(), []
    for factor, mask in members():
        size = np.linalg.norm(w[mask])
        if size:
            rest[mask] += 0.2 * factor * w[mask] / size
        else:
            free.append((0.2 * factor, mask))
    found = penalty().optimality({"w": jnp.asarray(w)}, {"w": jnp.asarray(grads)})["w"]
    np.testing.assert_allclose(found, abs(dual_prox(rest, free)), atol=1e-9)


@x64
@pytest.mark.parametrize("decades", [0, 1, 2, 3])
def test_error_of_the_passes_is_the_stated_one(decades: int) -> None:
    """What is left of 0 in (z - x) / s + dR(z), also where weights are of the size of their steps."""
    prox, optimality = jax.jit(penalty(1.0).prox), jax.jit(penalty(1.0).optimality)
    rng = np.random.default_rng(7)
    for unit in (False, True):
        for _ in range(5):
            step = 10.0 ** rng.uniform(-decades, 0, size=SHAPE)
            x = 3 * rng.normal(size=SHAPE) * (step if unit else 1)
            z = prox({"w": x}, {"w": step})
            left = optimality(z, {"w": (z["w"] - x) / step})["w"]
            assert np.max(left) < (1e-5 if decades == 3 else 1e-9)


@x64
def test_derivatives_are_those_of_the_minimiser() -> None:
    """Against differences, in the argument, a step per element and the strength; forward, reverse, twice."""
    rng = np.random.default_rng(8)
    x, step = rng.normal(size=SHAPE), 10.0 ** rng.uniform(-1, 0.5, size=SHAPE)
    x[:, 1] *= 0.01
    step[0, 0] = 0.0

    def total(strength: Any, x: Any, step: Any) -> Any:
        return jnp.sum(jnp.sin(penalty(strength).prox({"w": x}, {"w": step})["w"]))

    along = 0.5, rng.normal(size=SHAPE), rng.normal(size=SHAPE) * (step > 0)
    grads = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    at, small = (0.2, x, step), 1e-6
    up, down = (tuple(a + sign * small * d for a, d in zip(at, along, strict=True)) for sign in (1, -1))
    difference = (total(*up) - total(*down)) / (2 * small)
    slope = sum(np.sum(np.asarray(g) * d) for g, d in zip(grads(*at), along, strict=True))
    np.testing.assert_allclose(slope, difference, rtol=1e-6)
    forward = jax.jvp(total, at, along)[1]
    np.testing.assert_allclose(forward, slope, rtol=1e-9)


def test_extremes() -> None:
    prox, slope_of = jax.jit(penalty().prox), jax.jit(jax.value_and_grad(penalty()))
    for scale in (1e-45, 1e-30, 1e30):
        for x in (draw(9), np.ones(SHAPE), np.zeros(SHAPE)):
            x = jnp.asarray(x * scale, jnp.float32)
            value, slope = slope_of(x)
            assert np.isfinite(value)
            assert np.all(np.isfinite(slope))
            for step in (0.0, 1e-3, 1e5, 1e30):
                out = prox(x, step)
                assert np.all(np.isfinite(out))
                assert np.all(np.abs(out) <= np.abs(x))
    assert np.isnan(prox(jnp.full(SHAPE, jnp.nan), 1.0)).all()
    single = penalty(0.2).prox(jnp.array([[2.0]]), 1.0)
    np.testing.assert_allclose(single, 1.6, rtol=1e-6)


@x64
def test_several_leaves_and_complex_ones() -> None:
    params = {"a": jnp.asarray(draw(10)), "b": jnp.asarray(draw(11) + 1j * draw(12))}
    both = penalty().prox(params, 0.7)
    for name, leaf in params.items():
        np.testing.assert_allclose(both[name], penalty().prox(leaf, 0.7), atol=1e-12)
    turned = penalty().prox({"w": params["a"] * 1j}, 0.7)["w"]
    np.testing.assert_allclose(turned, 1j * both["a"], atol=1e-12)


def test_training_removes_rows_and_columns() -> None:
    """Units that nothing feeds or reads: prox_adam, whose steps are per element."""
    rng = np.random.default_rng(13)
    truth = rng.normal(size=SHAPE) * (np.arange(6) < 4)[:, None] * (np.arange(5) < 3)
    x = rng.normal(size=(100, 6))
    y = jnp.asarray(x @ truth, jnp.float32)
    optimizer = jaxreg.prox_adam(0.02, penalty(0.05))

    def advance(carry: Any, _: None) -> Any:
        params, state = carry
        grads = jax.grad(lambda w: jnp.mean((x @ w - y) ** 2))(params)
        return jaxreg.step(optimizer, grads, state, params), None

    start = jnp.asarray(rng.normal(size=SHAPE) / 3, jnp.float32)
    w = jax.jit(lambda c: jax.lax.scan(advance, c, None, length=400)[0][0])((start, optimizer.init(start)))
    np.testing.assert_array_equal(np.asarray(w).any(axis=1), np.arange(6) < 4)
    np.testing.assert_array_equal(np.asarray(w).any(axis=0), np.arange(5) < 3)


def test_bad_arguments() -> None:
    make: Callable[..., jaxreg.Penalty] = jaxreg.overlapping_group_lasso
    for bad in (groups.outputs(), [], "outputs", None):
        with pytest.raises(
            TypeError, match="'structures' parameter of overlapping_group_lasso must be a seq"
        ):
            make(0.1, bad)
    with pytest.raises(TypeError, match=r"'structures\[1\]' parameter of .* must be a structure"):
        make(0.1, [groups.outputs(), "layers"])
    with pytest.raises(ValueError, match="'strength' parameter of overlapping_group_lasso"):
        make(-0.1, BOTH)
    with pytest.raises(TypeError, match="'size_weights' parameter of overlapping_group_lasso"):
        make(0.1, BOTH, size_weights=1)
    with pytest.raises(ValueError, match=r"The leaf 'bias' has shape \(3,\)"):
        make(0.1, BOTH)({"bias": jnp.ones(3)})
    with pytest.raises(ValueError, match="overlapping_group_lasso has no exact prox"):
        (jaxreg.group_lasso(0.1, groups.layers()) + make(0.1, BOTH)).prox(jnp.ones((2, 2)), 0.1)
