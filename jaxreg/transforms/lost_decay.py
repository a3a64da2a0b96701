"""A warning, before training, that a decay is too small for the precision of the weights."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxreg.penalties.base import Leaves
from jaxreg.transforms.decay_rule import DecayRule
from jaxreg.transforms.outlook import Outlook
from jaxreg.transforms.rounding import is_narrow
from jaxreg.tree import FlatTree, is_complex, upcast


def loss_warner(outlook: Outlook, rounding: str | None) -> Callable[[FlatTree], None]:
    """A function that warns the first time it sees parameters whose decay would be lost."""
    warned = False

    def warn(flat: FlatTree) -> None:
        nonlocal warned
        lost = {} if warned else lost_leaves(outlook, rounding, flat)
        if lost:
            warned = True
            # At the caller of init.
            warnings.warn(_message(outlook.rule, rounding, flat, lost), UserWarning, stacklevel=3)

    return warn


def lost_leaves(outlook: Outlook, rounding: str | None, flat: FlatTree) -> dict[int, float]:
    """Leaves of which a step moves most weights by less than half a spacing, and the largest share."""
    rule = outlook.rule
    chosen = rule.mask.indices(flat)
    shares = outlook.largest_shares(flat, chosen)
    # Not a number where traced values are in it, which nothing is said about.
    shares = {index: share for index, share in shares.items() if share > 0}
    if not shares:
        return {}
    distances: Leaves = {}
    if rule.toward is not None or rule.target_norm is not None:
        if any(_is_abstract(flat.leaves[index]) for index in chosen):
            return {}
        with jax.ensure_compile_time_eval():
            distances = rule.distances(flat, {index: upcast(flat.leaves[index]) for index in chosen})
    return {
        index: share
        for index, share in shares.items()
        if _is_lost(flat.leaves[index], share, distances.get(index), rounding)
    }


def _is_lost(leaf: Any, share: float, distance: Any, rounding: str | None) -> bool:
    info = _precision(leaf, rounding)
    eps = float(info.eps)
    if distance is None:
        # Half the distance to the next number is between a quarter and half of eps, as a share of a weight.
        if share < eps / 4:
            return True
        has_denormals_in_reach = info.bits == 16 and info.minexp > -100
        if _is_abstract(leaf) or (share >= eps / 2 and not has_denormals_in_reach):
            return False
        distance = leaf
    elif isinstance(distance, Tracer):  # to a reference that is traced
        return False
    with jax.ensure_compile_time_eval():
        return bool(_mostly_stuck(leaf, distance, share, eps, float(info.smallest_subnormal)))


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, Tracer | jax.ShapeDtypeStruct)


def _precision(leaf: Any, rounding: str | None) -> Any:
    # With rounding, what is lost is what float32 loses.
    return jnp.finfo(jnp.float32 if rounding and is_narrow(leaf) else jnp.result_type(leaf))


@jax.jit
def _mostly_stuck(leaf: Any, distance: Any, share: Any, eps: Any, smallest: Any) -> jax.Array:
    """Whether most weights with a way to go have a neighbouring number too far for their step."""
    leaf, distance = upcast(leaf), upcast(distance)
    sizes, ways = jnp.abs(leaf), jnp.abs(distance)
    # Weights that start where they are led to will be some part of themselves away from it.
    ways = jnp.where(jnp.any(ways != 0), ways, sizes)
    mantissa, exponent = jnp.frexp(sizes)
    spacing = eps * jnp.exp2(exponent - 1.0)
    if not is_complex(leaf):  # below a power of two the numbers lie twice as close
        inward = jnp.sign(leaf) * jnp.sign(distance) >= 0
        spacing = jnp.where((mantissa == 0.5) & inward, spacing / 2, spacing)
    spacing = jnp.where(sizes == 0, smallest, jnp.maximum(spacing, smallest))
    counted = jnp.isfinite(sizes) & (ways != 0)
    stuck = counted & (share * ways < spacing / 2)
    return jnp.sum(stuck.astype(jnp.float32)) > jnp.sum(counted.astype(jnp.float32)) / 2


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
    whole = "a weight"
    if rule.toward is not None:
        whole = "a weight's distance to 'toward'"
    if rule.target_norm is not None:
        whole = "a weight's distance to 'target_norm'"
    return (
        f"Where gradients are small, the weight decay of '{flat.paths[first]}'{also} is lost: a step takes "
        f"a share of {lost[first]:.1e} of {whole}, which is less than half the distance to the next "
        f"{np.dtype(info.dtype).name} number. {remedy}"
    )
