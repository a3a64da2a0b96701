"""Constraints in sums: the exact compositions against brute force, and the errors for the others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from constraint_cases import CONSTRAINTS
from formulas import SHAPE
from registry import ON

import jaxreg
from jaxreg import groups

CASES = {case.name: case for case in CONSTRAINTS}
L1, L2, NET = jaxreg.l1(0.2, mask=ON), jaxreg.l2(0.3, mask=ON), jaxreg.elastic_net(0.4, 0.5, mask=ON)
COMPOSED = [
    *[
        ("l1", name)
        for name in ("max_norm", "max_norm[outputs]", "l2_ball", "box", "non_negative", "l1_ball")
    ],
    *[("elastic_net", name) for name in ("box", "non_negative", "l2_ball")],
    *[("l2", name) for name in CASES],
]
PARTS = {
    "l1": (L1, lambda w: 0.2 * np.abs(w).sum()),
    "elastic_net": (NET, lambda w: 0.2 * np.abs(w).sum() + 0.1 * np.sum(w**2)),
    "l2": (L2, lambda w: 0.3 * np.sum(w**2)),
}
SIZE = 0.9


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE)


def at(kernel: Any) -> dict[str, Any]:
    return {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(SHAPE[1])}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("part", "name"), COMPOSED)
def test_prox_of_the_sum_is_the_minimiser(part: str, name: str) -> None:
    case, (penalty, formula) = CASES[name], PARTS[part]
    size = SIZE if case.sized else 1.0
    both = case.make(size) + penalty
    # l2 is taken out before the constraint comes: with it one kind of step is enough.
    for per_element in {False, case.per_element and part != "l2"}:
        x = draw(0)
        step = 10.0 ** np.random.default_rng(1).uniform(-2, 1, size=SHAPE) if per_element else 0.7
        sizes = {"kernel": jnp.asarray(step), "bias": 1.0} if per_element else step
        found = np.asarray(jax.jit(both.prox)(at(x), sizes)["kernel"])
        assert case.excess(found, size) < 1e-13

        def objective(z: np.ndarray, step: Any = step, x: np.ndarray = x) -> float:
            return formula(z) + float(np.sum((z - x) ** 2 / (2 * step)))

        best, rng = objective(found), np.random.default_rng(2)
        for spread in (1.0, 1e-1, 1e-2, 1e-4, 1e-6):
            for _ in range(40):
                noise = spread * rng.normal(size=SHAPE) * (rng.random(SHAPE) < 0.3)
                assert best <= objective(case.sample(found + noise, size)) + 1e-11 * (1 + best)
        if case.convex:
            slope = {"kernel": jnp.asarray((found - x) / step), "bias": jnp.zeros(SHAPE[1])}
            optimality = jax.jit(both.optimality)
            distance = optimality(at(found), slope)["kernel"]
            np.testing.assert_allclose(distance, 0, atol=1e-10)
            slope["kernel"] = jnp.asarray(found)  # descent goes inwards
            assert np.max(optimality(at(found), slope)["kernel"]) > 1e-2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["max_norm[outputs]", "box", "non_negative", "l1_ball"])
def test_optimality_of_a_sum_with_l1_bounds_the_slope(name: str) -> None:
    """No way into the set descends faster than the distance of 0 to the subdifferential."""
    case = CASES[name]
    both = L1 + case.make(SIZE)
    prox, optimality = jax.jit(both.prox), jax.jit(both.optimality)
    w = np.asarray(prox(at(0.8 * draw(4)), 1.0)["kernel"])
    for seed in range(3):
        slope = draw(5 + seed)
        distance = np.asarray(optimality(at(w), at(slope))["kernel"])
        # A small step of proximal gradient goes down as fast as the distance, which no way exceeds.
        tiny = 1e-7
        moved = (np.asarray(prox(at(w - tiny * slope), tiny)["kernel"]) - w) / tiny
        expected = np.abs(moved)
        for m in case.members() if case.members else []:
            expected[m] = np.linalg.norm(moved[m])
        np.testing.assert_allclose(distance, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("penalty", "pair"),
    [
        (jaxreg.l1(0.1) + jaxreg.simplex(), "l1 and simplex"),
        (jaxreg.l1(0.1) + jaxreg.unit_norm(groups.outputs()), "l1 and unit_norm"),
        (jaxreg.l1(0.1) + jaxreg.spectral_norm_ball(1.0), "l1 and spectral_norm_ball"),
        (jaxreg.non_negative() + jaxreg.l2_ball(1.0), "non_negative and l2_ball"),
        (jaxreg.group_lasso(0.1, groups.outputs()) + jaxreg.non_negative(), "group_lasso and non_negative"),
    ],
)
def test_pairs_without_an_exact_prox_are_named(penalty: jaxreg.Penalty, pair: str) -> None:
    params = {"w": jnp.ones((3, 2))}
    with pytest.raises(ValueError, match=f"The sum of {pair} has no exact prox"):
        penalty.prox(params, 0.1)
    assert jax.jit(penalty)(params) >= 0


def test_the_value_of_a_sum_is_infinite_outside() -> None:
    both = jaxreg.l1(0.5) + jaxreg.non_negative()
    assert both(jnp.array([1.0, -1e-3])) == np.inf
    np.testing.assert_allclose(both(jnp.array([1.0, 0.0, 2.0])), 1.5)
