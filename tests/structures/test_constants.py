"""Positions that are known while a program is read, against what JAX computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxreg.structures.constants import as_slice, folded
from jaxreg.structures.program import read

POSITIONS = {
    "range": lambda: jnp.arange(2, 11, 3),
    "wrapped": lambda: jnp.where(jnp.arange(4) - 2 < 0, jnp.arange(4) + 3, jnp.arange(4))[:, None],
    "mixed": lambda: jnp.maximum(-jnp.arange(6).reshape(2, 3), -3).astype(jnp.int8),
    "compared": lambda: (jnp.arange(4)[:, None] >= jnp.arange(3)[None]) == (jnp.arange(3) < 2),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_whole_numbers_are_worked_out(name):
    program = read(jax.make_jaxpr(lambda x: (POSITIONS[name](), x))(1.0))
    value = program.outputs[0]
    assert program.operations == []
    assert value.constant.dtype == value.dtype
    np.testing.assert_array_equal(value.constant, POSITIONS[name]())


def test_large_and_floating_numbers_are_left_to_the_program():
    for function in (lambda: jnp.arange(2**17) * 2, lambda: jnp.arange(5.0) * 2):
        assert read(jax.make_jaxpr(function)()).operations
    assert folded("sin", {}, [np.arange(3)], (3,), np.dtype(np.int32)) is None


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x[:, ::2], "slice"),
        (lambda x: x[:, 1::3], "slice"),
        (lambda x: x[-1], "slice"),
        (lambda x: lax.dynamic_slice(x, (1, 99), (2, 3)), "slice"),
        (lambda x: x[:, np.array([1, 2, 3])], "slice"),
        (lambda x: x[:, np.array([1, 2, 5])], "gather"),
        (lambda x: x[:, np.array([3, 2, 1])], "gather"),
    ],
)
def test_indexing_at_known_positions_is_a_slice(function, name):
    x = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    program = read(jax.make_jaxpr(function)(x))
    operation = program.operations[0]
    assert operation.name == name
    if name == "slice":
        result = operation.primitive.bind(x, **operation.params)
        np.testing.assert_array_equal(np.reshape(result, jnp.shape(function(x))), function(x))


def test_positions_that_are_not_known_stay_as_they_are():
    assert as_slice("dynamic_slice", {"slice_sizes": (1,)}, (4,), [None], (1,)) is None
