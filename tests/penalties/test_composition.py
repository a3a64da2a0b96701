"""Sums of penalties: where a prox is exact, and the error where none is."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import groups, masks

PARAMS = {"a": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.linspace(-2.0, 1.0, 6).reshape(2, 3)}

OVERLAPS = [
    (
        jaxreg.group_lasso(0.1, groups.outputs()),
        jaxreg.group_lasso(0.1, groups.inputs()),
        "group_lasso and group_lasso",
    ),
    (
        jaxreg.group_lasso(0.1, groups.outputs()),
        jaxreg.sparse_group_lasso(0.1, groups.outputs(), 0.5),
        "group_lasso and sparse_group_lasso",
    ),
]


@pytest.mark.parametrize(("first", "second", "pair"), OVERLAPS)
def test_a_pair_without_exact_prox_is_named(first: jaxreg.Penalty, second: jaxreg.Penalty, pair: str) -> None:
    both = first + second
    np.testing.assert_allclose(both(PARAMS), first(PARAMS) + second(PARAMS), rtol=1e-6)
    words = f"The sum of {pair} has no exact prox or optimality where both reach the same leaf, 'a'"
    with pytest.raises(ValueError, match=words):
        both.prox(PARAMS, 0.1)
    with pytest.raises(ValueError, match=words):
        both.optimality(PARAMS, PARAMS)


def test_masks_that_turn_out_disjoint_need_no_composition() -> None:
    on_a = jaxreg.group_lasso(0.2, groups.outputs(), mask=masks.path("a"))
    on_b = jaxreg.group_lasso(0.3, groups.inputs(), mask=masks.path("b"))
    both = on_a + on_b
    expected = {"a": on_a.prox(PARAMS, 0.5)["a"], "b": on_b.prox(PARAMS, 0.5)["b"]}
    chex.assert_trees_all_equal(both.prox(PARAMS, 0.5), expected)


def test_order_of_the_parts_does_not_matter() -> None:
    l1, l2, group = jaxreg.l1(0.1), jaxreg.l2(0.3), jaxreg.group_lasso(0.1, groups.outputs())
    results = [
        (x + y + z).prox(PARAMS, 0.5) for x, y, z in ((l1, l2, group), (group, l2, l1), (l2, group, l1))
    ]
    chex.assert_trees_all_close(results[0], results[1], results[2], rtol=1e-6)


def test_l1_and_group_lasso_are_the_sparse_group_lasso() -> None:
    parts = jaxreg.l1(0.4 * 0.25) + jaxreg.group_lasso(0.4 * 0.75, groups.outputs())
    whole = jaxreg.sparse_group_lasso(0.4, groups.outputs(), 0.25)
    chex.assert_trees_all_close(parts.prox(PARAMS, 0.5), whole.prox(PARAMS, 0.5), atol=1e-6)
    chex.assert_trees_all_close(parts(PARAMS), whole(PARAMS), rtol=1e-6)
    chex.assert_trees_all_close(parts.optimality(PARAMS, PARAMS), whole.optimality(PARAMS, PARAMS), atol=1e-6)


def test_sum_of_a_list_and_bad_operands() -> None:
    parts = [jaxreg.l1(0.1), jaxreg.l2(0.1), jaxreg.l1(0.2)]
    np.testing.assert_allclose(sum(parts)(PARAMS), sum(part(PARAMS) for part in parts), rtol=1e-6)
    with pytest.raises(TypeError, match="unsupported operand"):
        jaxreg.l1(0.1) + 3
    with pytest.raises(TypeError, match="unsupported operand"):
        3 + jaxreg.l1(0.1)
