"""What is said of a unit along one axis is not said of it along another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxreg
from jaxreg import structures


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def scattered(matrix, place):
    return jnp.zeros((3, 6, 6)).at[place].set(matrix)


def written(matrix, place):
    return lax.dynamic_update_slice(jnp.zeros((3, 6, 6)), matrix[None], (place, 0, 0))


@pytest.mark.parametrize("rows", [True, False], ids=["rows", "rows and columns"])
@pytest.mark.parametrize("write", [scattered, written])
def test_a_matrix_in_a_buffer_is_zero_along_the_axis_on_which_it_is(write, rows):
    params = {"a": draw(0, 3, 6), "matrix": draw(1, 6, 6), "b": draw(2, 6, 2)}
    params["matrix"][[2, 4]] = 0
    params["a"][:, [2, 4]] = 0
    if not rows:
        params["matrix"][:, [2, 4]] = 0

    def apply(params, x, place):
        buffer = write(params["matrix"], place)
        hidden = x @ params["a"]
        return (hidden @ buffer[place] + hidden) @ params["b"]

    inputs = (draw(3, 4, 3), jnp.int32(1))
    small = jaxreg.compact(structures.trace(apply, params, *inputs), params, inputs=inputs)
    assert [len(kept) for kept in small.kept] == [6 if rows else 4]


@pytest.mark.parametrize("mixed", [True, False], ids=["in two places", "in one"])
def test_a_group_of_channels_is_zero_where_all_that_it_is_made_of_is(mixed):
    params = {"a": draw(4, 3, 3), "kernel": draw(5, 3, 1, 9), "b": draw(6, 3, 2)}
    params["a"][:, 1] = 0

    def apply(params, x):
        hidden = lax.conv_general_dilated(
            x @ params["a"], params["kernel"], (1,), "SAME",
            dimension_numbers=("NHC", "HIO", "NHC"), feature_group_count=3,
        )  # fmt: skip
        hidden = hidden.reshape(*hidden.shape[:2], 3, 3)
        if mixed:
            hidden = hidden + hidden.swapaxes(-1, -2)
        return jnp.cumsum(hidden, axis=1).sum(3) @ params["b"]

    x = draw(7, 2, 5, 3)
    small = jaxreg.compact(structures.trace(apply, params, x), params, inputs=[x])
    assert small.sizes["a"] == ((3, 3) if mixed else (3, 2))
    assert jax.tree.map(np.shape, small.apply(small.params, x)) == (2, 5, 2)
