"""Nested groups: the prox against a solver that knows no nesting, special cases, and what nesting means."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxreg
from jaxreg import groups, masks
from jaxreg.group_kinds import Cluster, Groups
from jaxreg.tree import FlatTree
from jaxreg.views import View

SHAPE = (4, 3, 4)
LEVELS = [groups.blocks((1,)), groups.chunks(2, axis=0), groups.kernels(), groups.outputs(), groups.layers()]
WEIGHTS = [0.3, 1.0, 0.0, 0.5, 0.2]

x64 = pytest.mark.usefixtures("x64")


def draw(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE) * scale


def labels() -> list[np.ndarray]:
    """The group of each element at each of LEVELS, written out."""
    space, inner, outer = np.indices(SHAPE)
    return [
        np.arange(np.prod(SHAPE)).reshape(SHAPE),
        (space // 2) * 100 + inner * 10 + outer,
        inner * 10 + outer,
        outer,
        np.zeros(SHAPE, int),
    ]


def members() -> list[tuple[float, np.ndarray]]:
    """Every group with the factor of its norm."""
    return [
        (weight * np.sqrt((level == label).sum()), level == label)
        for weight, level in zip(WEIGHTS, labels(), strict=True)
        for label in np.unique(level)
    ]


def penalty(strength: Any = 0.2, levels: Any = LEVELS, weights: Any = WEIGHTS) -> jaxreg.Penalty:
    return jaxreg.hierarchical_group_lasso(strength, levels, level_weights=weights)


def dual_prox(x: np.ndarray, strength: float, passes: int = 300) -> np.ndarray:
    """Block coordinate ascent in the dual, from the coarse groups to the fine: it needs no nesting."""
    pulls = [np.zeros(mask.sum()) for _, mask in members()]
    z = x.copy()
    for _ in range(passes):
        before = z.copy()
        for number in reversed(range(len(pulls))):
            factor, mask = members_once[number]
            free = z[mask] + pulls[number]
            size = np.linalg.norm(free)
            pulls[number] = free * min(1.0, strength * factor / size) if size else free
            z[mask] = free - pulls[number]
        if np.max(abs(z - before)) < 1e-14:
            break
    return z


members_once = members()


@x64
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_prox_and_value_against_a_dual_solver(scale: float) -> None:
    x = draw(0, scale)
    found = np.asarray(penalty().prox({"w": x}, 0.7)["w"])
    expected = dual_prox(x, 0.2 * 0.7)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    value = 0.2 * sum(factor * np.linalg.norm(x[mask]) for factor, mask in members_once)
    np.testing.assert_allclose(penalty()({"w": x}), value, rtol=1e-12)
    narrow = penalty().prox({"w": jnp.asarray(x, jnp.float32)}, 0.7)["w"]
    np.testing.assert_allclose(narrow, found, atol=16 * np.finfo(np.float32).eps * np.max(abs(x)))


@x64
def test_zeros_are_those_of_nested_groups() -> None:
    """A tree of supports: nothing lives in a dead group, and all levels die at some strength."""
    x = draw(1)
    kinds = set()
    for strength in (0.02, 0.1, 0.2, 0.3, 1.0):
        z = np.asarray(penalty(strength).prox({"w": x}, 1.0)["w"])
        alive = [tuple(sorted({int(label) for label in level[z != 0]})) for level in labels()]
        kinds.add(tuple(len(level) for level in alive))
    assert len(kinds) >= 4
    assert (0,) * 5 in kinds


@x64
def test_special_cases_are_the_penalties_with_those_names() -> None:
    x, grads = {"w": jnp.asarray(draw(2))}, {"w": jnp.asarray(draw(3))}
    elements, units = groups.blocks((1,)), groups.outputs()
    pairs = [
        (penalty(0.4, [units], None), jaxreg.group_lasso(0.4, units)),
        (penalty(0.4, [elements], None), jaxreg.l1(0.4)),
        (penalty(0.4, [elements, units], [0.3, 0.7]), jaxreg.sparse_group_lasso(0.4, units, 0.3)),
        (jaxreg.l1(0.12) + penalty(0.28, [units], None), jaxreg.sparse_group_lasso(0.4, units, 0.3)),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-13)
        np.testing.assert_allclose(ours.prox(x, 0.5)["w"], theirs.prox(x, 0.5)["w"], atol=1e-14)
    for ours, theirs in (pairs[0], pairs[1], pairs[3]):
        at = {"w": jnp.where(jnp.abs(x["w"]) > 0.7, x["w"], 0.0).at[..., 1].set(0.0)}
        np.testing.assert_allclose(
            ours.optimality(at, grads)["w"], theirs.optimality(at, grads)["w"], atol=1e-13
        )


@x64
def test_optimality_is_the_distance_that_a_solver_finds() -> None:
    """The least |grads + subgradient| over all subgradients, each dead group's a vector in a ball."""
    w, grads = draw(4), draw(5, 0.6)
    w[..., 1], w[:2, 0, 0], w[3] = 0.0, 0.0, 0.0
    fixed = grads.copy()
    free = []
    for factor, mask in members_once:
        size = np.linalg.norm(w[mask])
        if size:
            fixed[mask] += 0.2 * factor * w[mask] / size
        else:
            free.append((0.2 * factor, mask))
    # The same dual solver, on the dead groups alone.
    rest, pulls = fixed.copy(), [np.zeros(mask.sum()) for _, mask in free]
    for _ in range(300):
        for number, (factor, mask) in enumerate(free):
            target = rest[mask] + pulls[number]
            size = np.linalg.norm(target)
            pulls[number] = target * min(1.0, factor / size) if size else target
            rest[mask] = target - pulls[number]
    found = penalty().optimality({"w": jnp.asarray(w)}, {"w": jnp.asarray(grads)})["w"]
    np.testing.assert_allclose(found, abs(rest), atol=1e-9)


@x64
def test_per_element_steps_compose_for_one_level_only() -> None:
    """The composition of levels would be wrong: a minimiser is below it. So it is refused, by name."""
    x, step = draw(6)[:2, :1, :1].ravel(), np.array([0.1, 2.0])
    fine = jaxreg.group_lasso(0.4, groups.layers()).prox({"w": jnp.asarray(x)}, {"w": step})
    twice = jaxreg.group_lasso(0.4, groups.layers()).prox(fine, {"w": step})["w"]

    def objective(z: np.ndarray) -> float:
        return float(0.8 * np.sqrt(2) * np.linalg.norm(z) + np.sum((z - x) ** 2 / (2 * step)))

    best = optimize.minimize(objective, x, method="Powell", options={"xtol": 1e-12, "ftol": 1e-14})
    assert objective(np.asarray(twice)) > best.fun + 1e-4
    two = penalty(0.4, [groups.layers(), groups.layers()], None)
    assert objective(np.asarray(two.prox({"w": jnp.asarray(x)}, 1.0)["w"])) > best.fun
    words = "hierarchical_group_lasso needs one step size for each leaf.*sparse_group_lasso"
    with pytest.raises(ValueError, match=words):
        two.prox({"w": jnp.asarray(x)}, {"w": step})
    one = penalty(0.4, [groups.layers()], None).prox({"w": jnp.asarray(x)}, {"w": step})
    np.testing.assert_array_equal(one["w"], fine["w"])


def test_extremes() -> None:
    slope_of, prox = jax.jit(jax.value_and_grad(penalty())), jax.jit(penalty().prox)
    for scale in (1e-45, 1e-30, 1e30):
        for x in (draw(7), np.ones(SHAPE), np.zeros(SHAPE)):
            x = jnp.asarray(x * scale, jnp.float32)
            value, slope = slope_of(x)
            assert np.isfinite(value)
            assert np.all(np.isfinite(slope))
            for step in (1e-3, 1e5, 1e30):
                out = prox(x, step)
                assert np.all(np.isfinite(out))
                assert np.all(np.abs(out) <= np.abs(x))


def test_weights_are_traced_and_differentiable() -> None:
    x = {"w": jnp.asarray(draw(8), jnp.float32)}

    @jax.jit
    def total(weights: list[Any]) -> Any:
        return penalty(0.2, LEVELS[1:3], weights)(x)

    slope = jax.grad(total)([1.0, 0.5])
    np.testing.assert_allclose(slope[0], penalty(0.2, LEVELS[1:3], [1.0, 0.0])(x), rtol=1e-5)
    assert penalty(0.2).scale(2.0)(x) == pytest.approx(2 * penalty(0.2)(x))


@pytest.mark.parametrize(
    ("fine", "coarse", "shape"),
    [
        (groups.outputs(), groups.inputs(), (4, 4)),
        (groups.outputs(), groups.kernels(), (2, 4, 4)),
        (groups.chunks(2, axis=0), groups.chunks(3, axis=0), (6, 4)),
        (groups.chunks(2, axis=0), groups.strided(2, axis=0), (6, 4)),
        (groups.blocks((2, 2)), groups.outputs(), (4, 4)),
        (groups.layers(), groups.blocks((2, 2)), (4, 4)),
    ],
)
def test_levels_that_are_not_nested_are_refused_by_leaf(
    fine: Groups, coarse: Groups, shape: tuple[int, ...]
) -> None:
    params = {"good": jnp.ones((1,) * len(shape)), "net": {"kernel": jnp.ones(shape)}}
    on = masks.path("net/**")
    words = r"must be nested, from fine to coarse. At the leaf 'net/kernel' of shape .* lies across groups of"
    with pytest.raises(ValueError, match=words):
        jaxreg.hierarchical_group_lasso(0.1, [fine, coarse], mask=on)(params)
    # Where a leaf is a single group of both, anything is nested.
    small = jaxreg.hierarchical_group_lasso(0.1, [groups.layers(), groups.outputs()], mask=masks.path("good"))
    assert float(small(params)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("fine", "coarse", "shape"),
    [
        (groups.chunks(2, axis=0), groups.chunks(4, axis=0), (8, 4)),
        (groups.strided(4, axis=0), groups.strided(2, axis=0), (8, 4)),
        (groups.blocks((2, 2), ragged=True), groups.blocks((4, 4), ragged=True), (7, 5)),
        (groups.chunks(3, axis=0, ragged=True), groups.outputs(), (7, 5)),
        (groups.kernels(), groups.inputs(), (3, 3, 2, 4)),
        (groups.outputs(), groups.outputs(), (3, 4)),
    ],
)
def test_levels_that_are_nested_pass(fine: Groups, coarse: Groups, shape: tuple[int, ...]) -> None:
    nested = jaxreg.hierarchical_group_lasso(0.1, [fine, coarse])
    parts = jaxreg.group_lasso(0.1, fine)(jnp.ones(shape)) + jaxreg.group_lasso(0.1, coarse)(jnp.ones(shape))
    np.testing.assert_allclose(nested(jnp.ones(shape)), parts, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Joined(Groups):
    """Columns of "a" joined with columns of "b", or with those in another order of leaves kept apart."""

    parts: Groups
    together: bool = True

    def resolve(self, flat: FlatTree, selected: Any) -> tuple[Cluster, ...]:
        clusters = tuple((index, self.parts.view(index, flat)) for index in selected)
        return (clusters,) if self.together else tuple((cluster,) for cluster in clusters)

    def view(self, index: int, flat: FlatTree) -> View:
        return self.parts.view(index, flat)


@x64
def test_groups_joined_across_leaves() -> None:
    """Columns of each leaf within columns of both: what one concatenated leaf would do."""
    a, b = draw(9)[0].T, draw(10)[1].T
    both = {"a": jnp.asarray(a), "b": jnp.asarray(b)}
    nested = penalty(0.3, [groups.outputs(), Joined(groups.outputs())], None)
    whole = {"w": jnp.concatenate([both["a"], both["b"]])}
    stacked = penalty(0.3, [groups.chunks(4, axis=0), groups.outputs()], None)
    np.testing.assert_allclose(nested(both), stacked(whole), rtol=1e-13)
    out, expected = nested.prox(both, 0.8), stacked.prox(whole, 0.8)["w"]
    np.testing.assert_allclose(jnp.concatenate([out["a"], out["b"]]), expected, atol=1e-14)
    # One step per leaf: the larger group scales each leaf's columns, which is exact; joined below, not.
    steps = {"a": 0.5, "b": 1.0}
    point = nested.prox(both, steps)
    slopes = {name: (point[name] - both[name]) / steps[name] for name in steps}
    for distance in nested.optimality(point, slopes).values():
        np.testing.assert_allclose(distance, 0.0, atol=1e-12)
    with pytest.raises(ValueError, match="for leaves whose groups are joined"):
        penalty(0.3, [Joined(groups.outputs()), Joined(groups.layers())], None).prox(both, steps)
    with pytest.raises(ValueError, match="At the leaf 'b'"):
        penalty(0.3, [Joined(groups.outputs()), groups.layers()], None)(both)


def test_bad_arguments() -> None:
    for bad in (groups.outputs(), [], "outputs", None, 3):
        with pytest.raises(
            TypeError, match="'levels' parameter of hierarchical_group_lasso must be a sequence"
        ):
            jaxreg.hierarchical_group_lasso(0.1, bad)
    with pytest.raises(TypeError, match=r"'levels\[1\]' parameter of .* must be a structure"):
        jaxreg.hierarchical_group_lasso(0.1, [groups.outputs(), "layers"])
    with pytest.raises(ValueError, match=r"must have a number for each of the 2 levels\. Got 1"):
        jaxreg.hierarchical_group_lasso(0.1, LEVELS[:2], level_weights=[1.0])
    with pytest.raises(ValueError, match=r"'level_weights\[1\]' .* must be a non-negative number. Got -1.0"):
        jaxreg.hierarchical_group_lasso(0.1, LEVELS[:2], level_weights=[1, -1.0])
    with pytest.raises(ValueError, match="'strength' parameter of hierarchical_group_lasso"):
        jaxreg.hierarchical_group_lasso(-0.1, LEVELS)
    with pytest.raises(ValueError, match=r"The leaf 'bias' has shape \(3,\)"):
        jaxreg.hierarchical_group_lasso(0.1, [groups.outputs()])({"bias": jnp.ones(3)})
