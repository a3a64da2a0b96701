"""Bad arguments are refused where they are given, by name, bound and value."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg import groups, masks

FACTORIES: dict[str, Callable[..., jaxreg.Penalty]] = {
    "l1": jaxreg.l1,
    "l2": jaxreg.l2,
    "elastic_net": lambda strength, **kw: jaxreg.elastic_net(strength, 0.5, **kw),
    "group_lasso": lambda strength, **kw: jaxreg.group_lasso(strength, groups.outputs(), **kw),
    "group_linf": lambda strength, **kw: jaxreg.group_linf(strength, groups.outputs(), **kw),
    "exclusive_lasso": lambda strength, **kw: jaxreg.exclusive_lasso(strength, groups.outputs(), **kw),
    "sparse_group_lasso": lambda strength, **kw: jaxreg.sparse_group_lasso(
        strength, groups.outputs(), 0.5, **kw
    ),
}

factories = pytest.mark.parametrize("name", FACTORIES)


@factories
@pytest.mark.parametrize("bad", [-1.0, -1, float("nan"), float("inf"), np.float64(-1.0), jnp.float32(-1.0)])
def test_strength_out_of_range(name: str, bad: Any) -> None:
    words = f"The 'strength' parameter of {name} must be a non-negative number. Got {float(bad)}."
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        FACTORIES[name](bad)


@factories
@pytest.mark.parametrize(
    "bad", ["0.1", None, True, np.ones(3), jnp.ones((1,)), 1j, optax.constant_schedule(0.1)]
)
def test_strength_that_is_no_number(name: str, bad: Any) -> None:
    with pytest.raises(
        TypeError, match=f"The 'strength' parameter of {name} must be a non-negative number. Got "
    ):
        FACTORIES[name](bad)


@factories
def test_strength_of_one_leaf_out_of_range(name: str) -> None:
    words = f"The 'strength['a']' parameter of {name} must be a non-negative number. Got -2.0."
    with pytest.raises(ValueError, match=re.escape(words)):
        FACTORIES[name]({"a": -2.0, "b": 1.0})


@factories
def test_traced_strength_passes_and_must_be_a_scalar(name: str) -> None:
    w = jnp.ones((2, 2))
    assert jax.jit(lambda s: FACTORIES[name](s)(w))(0.5) > 0
    with pytest.raises(
        ValueError, match=rf"'strength' parameter of {name} must be a scalar. Got shape \(3,\)"
    ):
        jax.jit(lambda s: FACTORIES[name](s)(w))(jnp.ones(3))


@factories
@pytest.mark.parametrize("bad", [3, "kernel", {"kernel": jnp.ones(2)}])
def test_bad_masks(name: str, bad: Any) -> None:
    with pytest.raises(TypeError, match="mask"):
        FACTORIES[name](0.1, mask=bad)


@factories
def test_mask_that_selects_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="selects no leaf"):
        FACTORIES[name](0.1, mask=masks.min_ndim(5))({"w": jnp.ones((2, 2))})


@factories
@pytest.mark.parametrize("count", [0, np.int32(3), jnp.int32(3)])
def test_a_step_count_is_no_parameter_tree(name: str, count: Any) -> None:
    words = (
        r'takes a pytree of parameters. Got the integer \d.*static_args=\("penalty", "mask", "groups", "cor'
    )
    with pytest.raises(TypeError, match=words):
        FACTORIES[name](0.1)(count)


def test_integer_strengths_are_numbers_to_differentiate() -> None:
    slope = jax.grad(lambda penalty: penalty(jnp.array([1.0, -3.0])))(jaxreg.l1(1))
    assert slope.strength == 4.0
    assert jaxreg.l1({"a": 1}).strength == {"a": 1.0}


def test_a_single_array_is_a_parameter_tree() -> None:
    assert float(jaxreg.l1(0.5)(jnp.float32(2.0))) == 1.0
    assert float(jaxreg.l1(0.5)(2.0)) == 1.0


@factories
@pytest.mark.parametrize("bad", [-0.5, float("nan"), np.float32(-1.0), jnp.float32(-1.0)])
def test_step_size_out_of_range(name: str, bad: float) -> None:
    with pytest.raises(
        ValueError, match=r"The 'step_size' parameter of prox must be a non-negative number. Got "
    ):
        FACTORIES[name](0.1).prox({"w": jnp.ones((2, 2))}, bad)
    with pytest.raises(ValueError, match=r"'step_size\[w\]' parameter of prox must be a non-negative number"):
        FACTORIES[name](0.1).prox({"w": jnp.ones((2, 2))}, {"w": bad})


@factories
def test_step_size_of_another_shape(name: str) -> None:
    params = {"w": jnp.ones((2, 3))}
    words = r"must broadcast to the leaf 'w' of shape \(2, 3\). Got shape \(2,\)"
    with pytest.raises(ValueError, match=words):
        FACTORIES[name](0.1).prox(params, {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="'step_size' has an entry 'v' that is above no leaf"):
        FACTORIES[name](0.1).prox(params, {"v": jnp.ones((2, 3))})
    FACTORIES[name](0.1).prox(params, {"w": jnp.ones((1, 3))})


@factories
@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_scale_out_of_range(name: str, bad: float) -> None:
    with pytest.raises(
        ValueError, match=r"The 'factor' parameter of scale must be a non-negative number. Got "
    ):
        FACTORIES[name](0.1).scale(bad)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_l1_ratio_out_of_range(bad: float) -> None:
    words = r"The 'l1_ratio' parameter of {} must be a number in \[0, 1\]. Got "
    with pytest.raises(ValueError, match=words.format("elastic_net")):
        jaxreg.elastic_net(0.1, bad)
    with pytest.raises(ValueError, match=words.format("sparse_group_lasso")):
        jaxreg.sparse_group_lasso(0.1, groups.outputs(), bad)


@pytest.mark.parametrize(
    "make", [jaxreg.group_lasso, lambda s, g, **kw: jaxreg.sparse_group_lasso(s, g, 0.5, **kw)]
)
def test_groups_and_size_weights(make: Callable[..., jaxreg.Penalty]) -> None:
    for bad in (None, "outputs", groups.outputs):
        with pytest.raises(
            TypeError, match=r"The 'groups' parameter of \w+ must be a structure from jaxreg.groups"
        ):
            make(0.1, bad)
    with pytest.raises(TypeError, match=r"The 'size_weights' parameter of \w+ must be True or False. Got 1"):
        make(0.1, groups.outputs(), size_weights=1)
    with pytest.raises(ValueError, match=r"The leaf 'bias' has shape \(3,\).*mask=jaxreg.masks.weights\."):
        make(0.1, groups.outputs())({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
