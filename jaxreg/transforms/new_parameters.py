"""The core of every proximal transform: a function to new parameters, and updates made from it."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jaxreg.arguments import check_rate
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves, spread_steps
from jaxreg.tree import FlatTree, PyTree, cast, flatten, is_absent, is_inexact, upcast

NO_PARAMS = (
    "You are using a transformation that requires the current value of parameters, but you are not passing "
    "`params` when calling `update`."
)


def require_params(params: PyTree) -> None:
    if params is None:
        raise ValueError(NO_PARAMS)


def require_penalty(penalty: Any, owner: str) -> Penalty:
    if not isinstance(penalty, Penalty):
        raise TypeError(
            f"The 'penalty' parameter of {owner} must be a jaxreg.Penalty, such as jaxreg.l1(1e-4). "
            f"Got {penalty!r}."
        )
    return penalty


def check_fit(penalty: Penalty, params: PyTree) -> None:
    """Refuse at ``init`` a penalty whose masks, groups or strengths do not fit the parameters."""
    flat = flatten(params)
    if any(is_inexact(leaf) for leaf in flat.leaves):
        penalty.touched(flat)


def rate_at(rate: Any, count: Any, owner: str, name: str) -> Any:
    """The value of a number or schedule at a step count."""
    return check_rate(rate(count) if callable(rate) else rate, name, owner)


def proximal_point(
    penalty: Penalty, params: PyTree, updates: PyTree, step_size: PyTree
) -> tuple[FlatTree, list[Any], Leaves]:
    """``prox(params + updates)`` for the leaves that the penalty reaches, in computing precision.

    Leaves whose update is absent are frozen and do not take part.
    """
    flat = flatten(params)
    moves = flat.align(updates, "updates")
    reached = [i for i in penalty.touched(flat) if is_inexact(moves[i])]
    points = {i: upcast(flat.leaves[i]) + upcast(moves[i]) for i in reached}
    return flat, moves, penalty.prox_of(flat, points, spread_steps(step_size, flat, points))


def proximal_updates(penalty: Penalty, params: PyTree, updates: PyTree, step_size: PyTree) -> PyTree:
    """Updates that ``optax.apply_updates`` turns into the proximal point.

    An update has the wider of the dtypes of parameter and incoming update: a float32
    zero would not survive a bfloat16 difference.
    """
    flat, moves, points = proximal_point(penalty, params, updates, step_size)
    for index, point in points.items():
        leaf = flat.leaves[index]
        dtype = jnp.promote_types(jnp.result_type(leaf), moves[index].dtype)
        moves[index] = cast(point - upcast(leaf), dtype)
    return flat.rebuild(moves)


def proximal_parameters(penalty: Penalty, params: PyTree, updates: PyTree, step_size: PyTree) -> PyTree:
    """The proximal point itself; parameters out of reach are updated as optax does."""
    flat, moves, points = proximal_point(penalty, params, updates, step_size)
    new = list(flat.leaves)
    for index, (leaf, move) in enumerate(zip(flat.leaves, moves, strict=True)):
        if index in points:
            new[index] = cast(points[index], jnp.result_type(leaf))
        elif not is_absent(leaf) and not is_absent(move):
            new[index] = optax.apply_updates(leaf, move)
    return flat.rebuild(new)


class DirectTransformation(optax.GradientTransformationExtraArgs):
    """An optax transformation that also computes the new parameters directly.

    ``prox(p + u) - p`` and then ``p + update`` keeps the old parameters alive and reads
    everything twice; :func:`jaxreg.step` calls ``new_parameters`` instead.
    """

    new_parameters: Callable[..., tuple[PyTree, PyTree]]

    @classmethod
    def make(cls, init: Any, update: Any, new_parameters: Any) -> "DirectTransformation":
        made = cls(init, update)
        made.new_parameters = new_parameters
        return made
