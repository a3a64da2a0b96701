"""A warning, before training, that a decay is too small for the precision of the weights."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxreg.transforms.decay_rule import DecayRule
from jaxreg.transforms.rounding import is_narrow
from jaxreg.tree import FlatTree

ASKED = (0, 1, 10, 100, 1_000, 10_000, 100_000)
"""Step counts at which a schedule is asked for its largest value."""


def loss_warner(rule: DecayRule, rounding: str | None) -> Callable[[FlatTree], None]:
    """A function that warns the first time it sees parameters whose decay would be lost."""
    warned = False

    def warn(flat: FlatTree) -> None:
        nonlocal warned
        lost = {} if warned else lost_leaves(rule, rounding, flat)
        if lost:
            warned = True
            # At the caller of init.
            warnings.warn(_message(rule, rounding, flat, lost), UserWarning, stacklevel=3)

    return warn


def lost_leaves(rule: DecayRule, rounding: str | None, flat: FlatTree) -> dict[int, float]:
    """Leaves of which a step takes less than half the distance to the next number, and that share."""
    found = {}
    rate = 1.0 if rule.learning_rate is None else _largest(rule.learning_rate)
    for index, part in rule.parts(flat, rule.mask.indices(flat)).items():
        multiplier = 1.0 if part.multiplier is None else _largest(part.multiplier)
        share = math.prod((_largest(part.strength), multiplier, rate))
        # Not a number where traced values are in it, which nothing is said about.
        if share > 0 and _is_lost(flat.leaves[index], share, rounding):
            found[index] = share
    return found


def _largest(value: Any) -> float:
    """The number, or the largest value of a schedule at the counts asked; NaN where it is traced."""
    if not callable(value):
        return math.nan if isinstance(value, Tracer) else float(value)
    try:
        values = [value(jnp.asarray(count, jnp.int32)) for count in ASKED]
    except Exception:  # a table that ends before, say: it is asked again in training, where it must answer
        return math.nan
    return max(_largest(value) for value in values)


def _is_lost(leaf: Any, share: float, rounding: str | None) -> bool:
    info = _precision(leaf, rounding)
    eps = float(info.eps)
    # Half the distance to the next number is between a quarter and half of eps, as a share of a weight.
    if share < eps / 4:
        return True
    has_denormals_in_reach = info.bits == 16 and info.minexp > -100
    if share >= eps / 2 and not has_denormals_in_reach:
        return False
    if isinstance(leaf, Tracer | jax.ShapeDtypeStruct):
        return False
    typical = float(_typical(leaf))
    if not 0 < typical < math.inf:
        return False
    spacing = max(eps * 2.0 ** math.floor(math.log2(typical)), float(info.smallest_subnormal))
    return share * typical < spacing / 2


def _precision(leaf: Any, rounding: str | None) -> Any:
    # With rounding, what is lost is what float32 loses.
    return jnp.finfo(jnp.float32 if rounding and is_narrow(leaf) else jnp.result_type(leaf))


@jax.jit
def _typical(leaf: Any) -> jax.Array:
    """The mean modulus of the weights that are not zero."""
    sizes = jnp.abs(leaf).astype(jnp.float32)
    return jnp.sum(sizes) / jnp.maximum(jnp.sum(sizes != 0), 1)


def _message(rule: DecayRule, rounding: str | None, flat: FlatTree, lost: dict[int, float]) -> str:
    first, *others = lost
    info = _precision(flat.leaves[first], rounding)
    also = f" (and {len(others)} more {'leaf' if len(others) == 1 else 'leaves'})" if others else ""
    narrow = is_narrow(flat.leaves[first]) and not rounding
    remedy = (
        f"Pass rounding='stochastic' or 'compensated' to {rule.owner}, or keep the parameters in float32."
        if narrow
        else "A larger strength or learning rate, or wider parameters, would reach them."
    )
    return (
        f"Where gradients are small, the weight decay of '{flat.paths[first]}'{also} is lost: a step takes "
        f"a share of {lost[first]:.1e} of a weight, which is less than half the distance to the next "
        f"{np.dtype(info.dtype).name} number. {remedy}"
    )
