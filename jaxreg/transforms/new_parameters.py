"""The core of every proximal transform: a function to new parameters, and updates made from it."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxreg.arguments import check_rate
from jaxreg.penalties import Penalty
from jaxreg.penalties.base import Leaves, spread_steps
from jaxreg.transforms.penalty_schedule import PenaltySchedule, prox_at
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


def require_penalty_or_schedule(penalty: Any, owner: str) -> Penalty | PenaltySchedule:
    return penalty if isinstance(penalty, PenaltySchedule) else require_penalty(penalty, owner)


def require_optimizer(optimizer: Any, owner: str) -> optax.GradientTransformationExtraArgs:
    """The optimizer, its update taking extra arguments; ``optax.MultiSteps`` objects pass too."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(
            f"The 'optimizer' parameter of {owner} must be an optax optimizer. Got {optimizer!r}."
        )
    if isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return optimizer
    return optax.with_extra_args_support(optax.GradientTransformation(optimizer.init, optimizer.update))


def check_fit(resolve: Callable[[FlatTree], object], params: PyTree) -> None:
    """Refuse at ``init`` masks, groups or strengths that do not fit: resolving them raises."""
    flat = flatten(params)
    if flat.has_floating:
        resolve(flat)


def init_from(penalty: Penalty | PenaltySchedule, begin: Callable[[PyTree], Any]) -> Callable[[PyTree], Any]:
    """An ``init`` that refuses what does not fit, and copies nothing of abstract parameters."""

    def init(params: PyTree) -> Any:
        check_fit(penalty.touched, params)
        return begun(begin, params)

    return init


def begun(begin: Callable[[PyTree], Any], params: PyTree) -> Any:
    """``begin(params)``, or its shapes where the parameters are shapes."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        return jax.eval_shape(begin, params)
    return begin(params)


def rate_at(rate: Any, count: Any, owner: str, name: str) -> Any:
    """The value of a number or schedule at a step count."""
    return check_rate(rate(count) if callable(rate) else rate, name, owner)


def proximal_point(
    penalty: Penalty | PenaltySchedule,
    count: Any,
    params: PyTree,
    updates: PyTree,
    step_size: PyTree,
    frozen: Collection[int] = (),
) -> tuple[FlatTree, list[Any], Leaves, Any]:
    """``prox(params + updates)`` for the leaves that the penalty reaches, in computing precision.

    Leaves that are frozen do not take part, nor do those whose update or step size is absent. The last
    result is the strength of this step, where the penalty is a schedule that seeks one.
    """
    flat = flatten(params)
    moves = flat.align(updates, "updates")
    steps = flatten(step_size)
    stepless = {path for path, step in zip(steps.paths, steps.leaves, strict=True) if is_absent(step)}
    reached = [
        index
        for index in penalty.touched(flat)
        if is_inexact(moves[index]) and index not in frozen and flat.paths[index] not in stepless
    ]
    points = {i: _plain(lax.add, upcast(flat.leaves[i]), upcast(moves[i])) for i in reached}
    points, strength = prox_at(penalty, count, flat, points, spread_steps(step_size, flat, points))
    return flat, moves, points, strength


def _plain(operation: Callable[[Any, Any], jax.Array], x: Any, y: Any) -> jax.Array:
    """An operation of lax: on trees of a thousand leaves NumPy's promotion is slow to trace."""
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return operation(cast(x, dtype), cast(y, dtype))


def update_dtype(leaf: Any, move: Any) -> Any:
    """The wider dtype of parameter and incoming update: a float32 zero would not survive bfloat16."""
    return jnp.promote_types(jnp.result_type(leaf), jnp.result_type(move))


def updates_to(flat: FlatTree, moves: list[Any], points: Leaves) -> PyTree:
    """Updates that ``optax.apply_updates`` turns into the points; leaves without one keep their move.

    Their dtypes are those of :func:`update_dtype`.
    """
    moves = list(moves)
    for index, point in points.items():
        leaf = flat.leaves[index]
        moves[index] = cast(_plain(lax.sub, point, upcast(leaf)), update_dtype(leaf, moves[index]))
    return flat.rebuild(moves)


def parameters_at(flat: FlatTree, moves: list[Any], points: Leaves) -> PyTree:
    """The points themselves; parameters without one are updated as optax does."""
    new = [
        cast(points[index], jnp.result_type(leaf)) if index in points else _moved(leaf, moves[index])
        for index, leaf in enumerate(flat.leaves)
    ]
    return flat.rebuild(new)


def proximal_updates(
    penalty: Penalty | PenaltySchedule,
    count: Any,
    params: PyTree,
    updates: PyTree,
    step_size: PyTree,
    frozen: Collection[int] = (),
) -> tuple[PyTree, Any]:
    """Updates that ``optax.apply_updates`` turns into the proximal point, and the strength if sought."""
    flat, moves, points, strength = proximal_point(penalty, count, params, updates, step_size, frozen)
    return updates_to(flat, moves, points), strength


def proximal_parameters(
    penalty: Penalty | PenaltySchedule,
    count: Any,
    params: PyTree,
    updates: PyTree,
    step_size: PyTree,
    frozen: Collection[int] = (),
) -> tuple[PyTree, Any]:
    """The proximal point itself, and the strength; parameters out of reach are updated as optax does."""
    flat, moves, points, strength = proximal_point(penalty, count, params, updates, step_size, frozen)
    return parameters_at(flat, moves, points), strength


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """``optax.apply_updates``, leaf by leaf, that leaves parameters without an update alone."""
    flat = flatten(params)
    return flat.rebuild(list(map(_moved, flat.leaves, flat.align(updates, "updates"))))


def _moved(leaf: Any, move: Any) -> Any:
    return leaf if is_absent(leaf) or is_absent(move) else optax.apply_updates(leaf, move)


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
