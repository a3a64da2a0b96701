"""Record a function of parameters and inputs as a jaxpr, from shapes."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.tree import FlatTree, PyTree, is_absent

_NUMBERS = (bool, int, float, complex)


def record_what_varies(
    apply_fn: Callable[..., Any], flat: FlatTree, inputs: PyTree
) -> tuple[tuple[int, ...], Any]:
    """The leaves that vary, and the record: numbers that the function has to know do not."""
    kinds = (_NUMBERS, (float, complex), ())
    *choices, arrays = dict.fromkeys(
        tuple(i for i, leaf in enumerate(flat.leaves) if _is_array(leaf) or type(leaf) in varying)
        for varying in kinds
    )
    for traced in choices:
        # Whatever the user's own code raises at a number that it cannot look at.
        with contextlib.suppress(Exception):
            return traced, record(apply_fn, flat, traced, inputs)
    return arrays, record(apply_fn, flat, arrays, inputs)


def record(apply_fn: Callable[..., Any], flat: FlatTree, traced: Sequence[int], inputs: PyTree) -> Any:
    """The jaxpr of the function, and the shapes of its outputs."""

    def call(arrays: Sequence[Any], given: Sequence[Any]) -> Any:
        leaves = list(flat.leaves)
        for index, array in zip(traced, arrays, strict=True):
            leaves[index] = array
        return apply_fn(flat.rebuild(leaves), *given)

    shapes = [shape_of(flat.leaves[index]) for index in traced]
    return jax.make_jaxpr(call, return_shape=True)(shapes, inputs)


def _is_array(leaf: Any) -> bool:
    return (
        not is_absent(leaf)
        and not isinstance(leaf, type)
        and hasattr(leaf, "shape")
        and hasattr(leaf, "dtype")
    )


def shape_of(leaf: Any) -> Any:
    """What JAX makes of an array or a number; other leaves as they are."""
    if type(leaf) in _NUMBERS:
        weak = type(leaf) is not bool
    elif _is_array(leaf):
        weak = getattr(leaf, "weak_type", False)
    else:
        return leaf
    return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf), weak_type=weak)
