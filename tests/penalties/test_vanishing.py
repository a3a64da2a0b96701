"""The factor on the strength from which on a unit is zero: its prox just above and just below."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import PENALTIES, parameters

import jaxreg
from jaxreg import groups, masks
from jaxreg.tree import flatten

SHAPE = (6, 4)
KNOWN = {
    "l1",
    "elastic_net",
    "group_lasso[outputs]",
    "group_lasso[inputs, weights of 1]",
    "sparse_group_lasso[outputs]",
    "l0",
    "mcp",
    "scad",
    "l_half",
    "l_half[inputs(layout='flax')]",
    "l1 + l2",
}
CASES = [case for case in PENALTIES if case.name in KNOWN]


def kernel(seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    x[0] = 0.0
    return x


def test_all_known_cases_are_in_the_registry() -> None:
    assert {case.name for case in CASES} == KNOWN


@pytest.mark.parametrize("per_element", [False, True], ids=["one step", "steps"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_unit_vanishes_from_its_factor_on(case, per_element) -> None:
    if per_element and not case.per_element:
        # One step for all is all that it takes; the other case has it.
        with pytest.raises(ValueError, match="one step size"):
            factors_of(case.make(0.3), kernel(0), np.full(SHAPE, 0.5, np.float32))
        return
    rng = np.random.default_rng(1)
    steps = np.exp(rng.normal(size=SHAPE)).astype(np.float32) if per_element else np.float32(0.7)
    x = kernel(0)
    penalty = case.make(0.3)

    @jax.jit
    def zeros_at(factor):
        return penalty.scale(factor).prox({"kernel": x}, steps)["kernel"] == 0

    factors = np.asarray(jax.jit(factors_of)(penalty, x, steps))
    axis = {SHAPE: None, (1, SHAPE[1]): 0, (SHAPE[0], 1): 1}[factors.shape]
    for factor in np.unique(factors[factors > 0])[::3]:
        for nudged in (factor * (1 + 1e-5), factor * (1 - 1e-5)):
            zero = np.asarray(zeros_at(nudged))
            zero = zero if axis is None else zero.all(axis, keepdims=True)
            np.testing.assert_array_equal(zero, factors < nudged)


def factors_of(penalty, x, steps):
    flat = flatten({"kernel": x})
    [(units, factors)] = penalty.vanishing_of(flat, {0: jnp.asarray(x)}, {0: jnp.asarray(steps)})
    assert units.number == factors.size
    return factors


def test_what_has_step_0_never_vanishes_and_zeros_always_have() -> None:
    x = np.array([0.0, 2.0, 0.0, 3.0], np.float32)
    steps = np.array([0.0, 0.0, 1.0, 1.0], np.float32)
    for penalty in (jaxreg.l1(1.0), jaxreg.elastic_net(2.0, 0.5), jaxreg.mcp(1.0)):
        found = factors_of(penalty, x, steps)
        np.testing.assert_array_equal(found[:3], [0.0, np.inf, 0.0])
        assert np.isfinite(found[3])
    pairs = groups.chunks(2, axis=0)
    found = factors_of(jaxreg.group_lasso(1.0, pairs), x, steps)
    np.testing.assert_allclose(found.ravel(), [np.inf, 3 / np.sqrt(2)], rtol=1e-6)


@pytest.mark.parametrize(
    "penalty",
    [
        jaxreg.l2(1.0),
        jaxreg.huber(1.0, 0.5),
        jaxreg.nuclear_norm(1.0),
        jaxreg.l1(1.0) + jaxreg.group_lasso(1.0, groups.outputs()),
        jaxreg.non_negative(),
    ],
    ids=lambda penalty: penalty.kind,
)
def test_a_penalty_without_such_a_factor_says_so(penalty) -> None:
    with pytest.raises(ValueError, match=f"{penalty.kind} has no strength that makes a given share"):
        factors_of(penalty, kernel(2), 1.0)


def test_leaves_that_the_mask_leaves_out_have_no_units() -> None:
    flat = flatten(parameters(jnp.ones(SHAPE)))
    penalty = jaxreg.l1(1.0, mask=masks.name("kernel"))
    index = flat.paths.index("layer/kernel")
    [(units, _)] = penalty.vanishing_of(flat, {index: jnp.ones(SHAPE)}, {index: jnp.float32(1.0)})
    assert units.indices == (index,)
    chex.assert_equal(penalty.vanishing_of(flat, {}, {}), [])
