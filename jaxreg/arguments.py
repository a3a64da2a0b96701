"""Check arguments where they are given; let traced values through."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

REMEDY = (
    "It was called with a step count, as optax.inject_hyperparams does with every callable "
    'argument it is not told about: pass static_args=("penalty", "mask", "groups", "corrected") '
    "(those your factory has) to optax.inject_hyperparams."
)


SCHEDULES = (
    " For a strength that changes during training use strength_schedule of jaxreg.proximal, or "
    "optax.inject_hyperparams around a function of the strength that builds the optimizer."
)


def check_number(
    value: Any,
    name: str,
    owner: str,
    *,
    low: float = 0.0,
    high: float = float("inf"),
    open_high: bool = False,
    open_low: bool = False,
) -> Any:
    """Refuse a concrete number that is not finite or not in [low, high]; return it otherwise.

    ``open_low`` and ``open_high`` refuse the bounds themselves.
    """
    if isinstance(value, Tracer):
        if value.shape != ():
            raise ValueError(f"The '{name}' parameter of {owner} must be a scalar. Got shape {value.shape}.")
        return value
    if not _is_real_scalar(value):
        hint = SCHEDULES if callable(value) and name.startswith("strength") else ""
        raise TypeError(
            f"The '{name}' parameter of {owner} must be {_bound(high, open_high, open_low, low)}. "
            f"Got {value!r} of type {type(value).__name__}.{hint}"
        )
    number = float(value)
    at_bound = (open_high and number == high) or (open_low and number == low)
    if not np.isfinite(number) or not low <= number <= high or at_bound:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be {_bound(high, open_high, open_low, low)}. "
            f"Got {number!r}."
        )
    return value


def check_number_tree(value: Any, name: str, owner: str) -> Any:
    """Check every leaf of a number or of a pytree of numbers to be non-negative."""
    entries = jax.tree_util.tree_leaves_with_path(value)
    if not entries:
        raise TypeError(f"The '{name}' parameter of {owner} must be {_bound()}. Got {value!r}.")
    for keys, leaf in entries:
        check_number(leaf, name + jax.tree_util.keystr(keys), owner)
    # An integer leaf could be neither differentiated nor scaled.
    return jax.tree.map(lambda leaf: float(leaf) if isinstance(leaf, int | np.integer) else leaf, value)


def check_rate(value: Any, name: str, owner: str) -> Any:
    """A step size or strength in a transform: a non-negative number or a schedule."""
    return value if callable(value) else check_number(value, name, owner)


def check_whole_number(value: Any, name: str, owner: str) -> Any:
    """Refuse what is not a non-negative integer; traced integers pass."""
    scalar = getattr(value, "shape", None) == () and jax.numpy.issubdtype(value.dtype, np.integer)
    if isinstance(value, bool) or not (isinstance(value, int) or scalar):
        raise TypeError(
            f"The '{name}' parameter of {owner} must be a non-negative whole number. "
            f"Got {value!r} of type {type(value).__name__}."
        )
    if not isinstance(value, Tracer) and value < 0:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be a non-negative whole number. Got {value}."
        )
    return value


def check_every(every: Any, owner: str) -> None:
    """Refuse an interval of steps that is not a positive whole number; traced integers pass."""
    check_whole_number(every, "every", owner)
    if not isinstance(every, Tracer) and every == 0:
        raise ValueError(f"The 'every' parameter of {owner} must be at least 1. Got 0.")


def check_window(begin_step: Any, end_step: Any, owner: str) -> None:
    """Refuse steps that are not whole numbers, or an end (None: never) that is not after the begin."""
    check_whole_number(begin_step, "begin_step", owner)
    if end_step is None:
        return
    check_whole_number(end_step, "end_step", owner)
    if isinstance(begin_step, Tracer) or isinstance(end_step, Tracer):
        return
    if end_step <= begin_step:
        raise ValueError(
            f"The 'end_step' parameter of {owner} must be larger than 'begin_step'. "
            f"Got begin_step={begin_step} and end_step={end_step}."
        )


def check_flag(value: Any, name: str, owner: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"The '{name}' parameter of {owner} must be True or False. Got {value!r}.")
    return value


def refuse_step_count(params: Any, owner: str) -> None:
    """Raise when a mask or a penalty is called like a schedule."""
    if not jax.tree_util.treedef_is_leaf(jax.tree.structure(params)):
        return  # a module may have a shape and a dtype of its own
    whole_number = isinstance(params, int | np.integer) or (
        getattr(params, "shape", None) == () and jax.numpy.issubdtype(params.dtype, np.integer)
    )
    if whole_number:
        raise TypeError(f"{owner} takes a pytree of parameters. Got the integer {params}. {REMEDY}")


def _is_real_scalar(value: Any) -> bool:
    if isinstance(value, bool | np.bool_) or callable(value):
        return False
    if isinstance(value, int | float):
        return True
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape != () or dtype is None:
        return False
    return jax.numpy.issubdtype(dtype, np.floating) or jax.numpy.issubdtype(dtype, np.integer)


def _bound(
    high: float = float("inf"), open_high: bool = False, open_low: bool = False, low: float = 0.0
) -> str:
    if high == float("inf"):
        if low == -float("inf"):
            return "a number"
        if low:
            return f"a number {'above' if open_low else 'of at least'} {low:g}"
        return "a positive number" if open_low else "a non-negative number"
    return f"a number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
