"""The words of argument errors, and that traced values pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import arguments, groups

NUMBER = "must be a non-negative number. Got"
SHARE = "must be a number in [0, 1]. Got"

# value, error, the end of the message
WRONG = [
    (-1, ValueError, "-1.0."),
    (-1e-30, ValueError, "-1e-30."),
    (float("nan"), ValueError, "nan."),
    (float("inf"), ValueError, "inf."),
    (np.float32(-2.0), ValueError, "-2.0."),
    (jnp.array(-0.5), ValueError, "-0.5."),
    (jnp.array(-3), ValueError, "-3.0."),
    (True, TypeError, "True of type bool."),
    (np.True_, TypeError, "of type bool."),
    ("0.1", TypeError, "'0.1' of type str."),
    (1j, TypeError, "1j of type complex."),
    (None, TypeError, "None"),
    (np.ones(3), TypeError, "of type ndarray."),
    (jnp.array(True), TypeError, "of type ArrayImpl."),
]


@pytest.mark.parametrize(("value", "error", "end"), WRONG, ids=lambda value: repr(value))
def test_strengths_are_checked_where_they_are_given(value, error, end):
    for make, owner in (
        (lambda: jaxreg.l1(value), "l1"),
        (lambda: jaxreg.l2(value), "l2"),
        (lambda: jaxreg.elastic_net(value, 0.5), "elastic_net"),
        (lambda: jaxreg.group_lasso(value, groups.layers()), "group_lasso"),
        (lambda: jaxreg.sparse_group_lasso(value, groups.layers(), 0.5), "sparse_group_lasso"),
    ):
        with pytest.raises(error) as caught:
            make()
        assert str(caught.value).startswith(f"The 'strength' parameter of {owner} {NUMBER} ")
        assert str(caught.value).endswith(end) or value is None


@pytest.mark.parametrize(
    "value", [0, 0.0, 3, 1e30, np.float64(0.1), np.int32(2), jnp.array(0.5), jnp.array(2)]
)
def test_good_numbers_come_back_unchanged(value):
    assert arguments.check_number(value, "strength", "l1") is value


@pytest.mark.parametrize(("value", "shown"), [(-0.1, "-0.1"), (1.5, "1.5"), (float("nan"), "nan")])
def test_ratios_have_two_bounds(value, shown):
    for make, owner in (
        (lambda: jaxreg.elastic_net(0.1, value), "elastic_net"),
        (lambda: jaxreg.sparse_group_lasso(0.1, groups.layers(), value), "sparse_group_lasso"),
    ):
        with pytest.raises(ValueError, match="'l1_ratio'") as caught:
            make()
        assert str(caught.value) == f"The 'l1_ratio' parameter of {owner} {SHARE} {shown}."
    assert jaxreg.elastic_net(0.1, 0)({"w": jnp.ones(2)}) == jaxreg.l2(0.05)({"w": jnp.ones(2)})
    assert jaxreg.elastic_net(0.1, 1)({"w": jnp.ones(2)}) == jaxreg.l1(0.1)({"w": jnp.ones(2)})


def test_an_open_bound_is_not_allowed_itself():
    given = {"name": "momentum", "owner": "prox_sgd", "high": 1.0, "open_high": True}
    assert arguments.check_number(0.999, **given) == 0.999
    with pytest.raises(ValueError, match="momentum") as caught:
        arguments.check_number(1, **given)
    assert str(caught.value) == "The 'momentum' parameter of prox_sgd must be a number in [0, 1). Got 1.0."


def test_entries_of_a_tree_are_named():
    with pytest.raises(ValueError, match="strength") as caught:
        jaxreg.l1({"dense": {"kernel": 0.1, "bias": -1}})
    assert str(caught.value) == f"The 'strength['dense']['bias']' parameter of l1 {NUMBER} -1.0."
    with pytest.raises(TypeError, match="strength") as caught:
        jaxreg.l1({"dense": {"kernel": "0.1"}})
    assert str(caught.value).endswith(f"{NUMBER} '0.1' of type str.")
    with pytest.raises(TypeError) as caught:
        jaxreg.l1({})
    assert str(caught.value) == f"The 'strength' parameter of l1 {NUMBER} {{}}."


def test_traced_scalars_pass_and_traced_vectors_do_not():
    params = {"w": jnp.array([1.0, -2.0])}
    assert jax.jit(lambda strength: jaxreg.l1(strength)(params))(-1.0) == -3.0
    with pytest.raises(ValueError, match="strength") as caught:
        jax.jit(lambda strength: jaxreg.l1(strength)(params))(jnp.ones(2))
    assert str(caught.value) == "The 'strength' parameter of l1 must be a scalar. Got shape (2,)."
    values = jax.vmap(lambda strength: jaxreg.l1(strength)(params))(jnp.array([0.5, 1.0]))
    np.testing.assert_array_equal(values, [1.5, 3.0])


def test_factors_are_checked():
    for factor in (-2.0, float("nan")):
        with pytest.raises(ValueError, match="factor") as caught:
            jaxreg.l1(0.1).scale(factor)
        assert str(caught.value) == f"The 'factor' parameter of scale {NUMBER} {factor!r}."


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_step_sizes_are_checked(value):
    with pytest.raises(ValueError, match="step_size") as caught:
        jaxreg.l1(0.1).prox({"w": jnp.ones(2)}, value)
    assert str(caught.value) == f"The 'step_size' parameter of prox {NUMBER} {value!r}."


def test_flags_are_not_numbers():
    with pytest.raises(TypeError, match="size_weights") as caught:
        jaxreg.group_lasso(0.1, groups.layers(), size_weights=1)
    assert str(caught.value) == "The 'size_weights' parameter of group_lasso must be True or False. Got 1."


def test_groups_are_not_strings():
    with pytest.raises(TypeError, match="groups") as caught:
        jaxreg.sparse_group_lasso(0.1, "outputs", 0.5)
    assert str(caught.value) == (
        "The 'groups' parameter of sparse_group_lasso must be a structure from jaxreg.groups, such as "
        "jaxreg.groups.outputs(). Got 'outputs'."
    )


@pytest.mark.parametrize("count", [0, np.int64(3), jnp.array(3), np.array(3)], ids=repr)
def test_a_penalty_called_with_a_step_count_names_the_remedy(count):
    with pytest.raises(TypeError, match="step count") as caught:
        jaxreg.l1(0.1)(count)
    assert str(caught.value) == (
        f"A penalty (l1) takes a pytree of parameters. Got the integer {int(count)}. {arguments.REMEDY}"
    )
    assert 'pass static_args=("penalty", "mask", "groups", "corrected")' in arguments.REMEDY


def test_a_traced_step_count_is_refused_too():
    with pytest.raises(TypeError, match="It was called with a step count"):
        jax.jit(jaxreg.l1(0.1))(3)


def test_a_single_floating_array_is_a_tree():
    np.testing.assert_allclose(jaxreg.l1(0.5)(jnp.array(-2.0)), 1.0)
