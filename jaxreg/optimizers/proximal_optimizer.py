"""Any optax optimizer, followed by a prox in the optimizer's own step sizes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreg.arguments import check_number
from jaxreg.optimizers.left_alone import left_alone
from jaxreg.penalties import Penalty
from jaxreg.transforms.new_parameters import (
    DirectTransformation,
    check_fit,
    proximal_parameters,
    proximal_updates,
    require_optimizer,
    require_params,
    require_penalty_or_schedule,
)
from jaxreg.transforms.penalty_schedule import PenaltySchedule, first_strength
from jaxreg.tree import PyTree, flatten


class ProximalOptimizerState(NamedTuple):
    """The count of updates, the wrapped optimizer's state, and the last strength if a ramp has to find it."""

    count: jax.typing.ArrayLike
    inner: Any
    strength: Any = None


def proximal_optimizer(
    optimizer: optax.GradientTransformation, penalty: Penalty | PenaltySchedule, step_size: Any
) -> optax.GradientTransformationExtraArgs:
    r"""Follow an optimizer's update by a penalty's prox, in step sizes that you name.

    .. math::
        w \leftarrow \mathrm{prox}_{S R}(w + u), \qquad u: \text{the optimizer's update},
        \quad S: \text{step sizes, one or one per element}

    With S the update that the optimizer makes per unit of constant gradient, the fixed points
    are the minimisers of ``loss + penalty``: strength is in the unit of the loss.

    Args:
        optimizer: any optax optimizer, learning rate included.
        penalty: a :class:`jaxreg.Penalty`, or a schedule of them: :func:`jaxreg.scheduled`,
            :func:`jaxreg.sparsity_ramp`.
        step_size: a non-negative number; or a schedule, evaluated at the count before this
            update, from 0; or a function of the optimizer's state AFTER its update, that
            returns a scalar or a pytree of step sizes (one per element; ``optax.MaskedNode()`` or
            None for a leaf to leave alone), such as :func:`jaxreg.learning_rate_of`. A callable
            that accepts a step count is taken for a schedule.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` whose state is a count and the
        optimizer's state. :func:`jaxreg.step` runs it without a second copy of the parameters.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        RMSProp, in loss units: its step per unit of gradient is ``lr / sqrt(nu + eps)``.

        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> def gain(state):
        ...     return jax.tree.map(lambda nu: 0.01 / jnp.sqrt(nu + 1e-8), state[0].nu)
        >>> optimizer = jaxreg.proximal_optimizer(optax.rmsprop(0.01), jaxreg.l1(0.5), gain)
        >>> params = jnp.array([1.0, 0.02])
        >>> state = optimizer.init(params)
        >>> for _ in range(200):
        ...     grads = params - jnp.array([1.5, 0.1])
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(2))
        [1. 0.]

    Notes:
        Leaves that the optimizer leaves alone are not shrunk either: those whose update is always
        zero (``optax.set_to_zero``, in ``optax.partition`` or ``optax.masked``), and those whose
        gradient ``optax.masked`` passes on. A link BEFORE this optimizer that sets gradients
        to zero does not freeze anything: leave such leaves out of the penalty's mask.

        Around ``optax.MultiSteps`` the prox waits for the step, and schedules count steps; inside
        of it works as well. ``optax.apply_if_finite`` goes around this optimizer: inside it would
        reject an update and leave the prox.

        Optimizers whose update does not grow with the gradient (Lion, sign SGD, clipping) have no
        such step size: for those :func:`jaxreg.proximal` with the learning rate is the
        decoupled form.

    References:
        Yun, Lozano and Yang, Adaptive proximal gradient methods for structured neural
        networks, 2021, algorithm 1, arXiv:2006.14063
    """
    require_penalty_or_schedule(penalty, "proximal_optimizer")
    inner = require_optimizer(optimizer, "proximal_optimizer")
    steps_at = _step_sizes(step_size)

    def init(params: PyTree) -> ProximalOptimizerState:
        check_fit(penalty.touched, params)
        return ProximalOptimizerState(jnp.zeros([], jnp.int32), inner.init(params), first_strength(penalty))

    def advance(
        finish: Callable[..., tuple[PyTree, Any]],
    ) -> Callable[..., tuple[PyTree, ProximalOptimizerState]]:
        def run(
            updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
        ) -> tuple[PyTree, ProximalOptimizerState]:
            require_params(params)
            update = functools.partial(inner.update, **extra_args)
            frozen = left_alone(update, updates, state.inner, params, flatten(params))
            updates, inner_state = update(updates, state.inner, params)
            count, steps = optax.safe_increment(state.count), steps_at(state.count, inner_state)
            due = _is_due(state.inner, inner_state)
            if due is not None:
                count = jnp.where(due, count, state.count)
                steps = jax.tree.map(lambda step: jnp.where(due, step, 0.0), steps)
            result, strength = finish(penalty, state.count, params, updates, steps, frozen)
            return result, ProximalOptimizerState(count, inner_state, strength)

        return run

    return DirectTransformation.make(init, advance(proximal_updates), advance(proximal_parameters))


def _is_due(before: Any, after: Any) -> Any:
    """Whether ``optax.MultiSteps`` made a step or only accumulated; None where there is none."""

    def steps_made(state: Any) -> list[Any]:
        nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, optax.MultiStepsState))
        return [node.gradient_step for node in nodes if isinstance(node, optax.MultiStepsState)]

    masked = jax.tree.leaves(after, is_leaf=lambda node: isinstance(node, optax.MaskedState))
    if steps_made([node.inner_state for node in masked if isinstance(node, optax.MaskedState)]):
        raise ValueError(
            "proximal_optimizer cannot follow an optax.MultiSteps that only some leaves pass through (in "
            "optax.partition or optax.masked): put a proximal optimizer inside each."
        )
    made = [new != old for old, new in zip(steps_made(before), steps_made(after), strict=True)]
    return functools.reduce(jnp.logical_and, made) if made else None


def _step_sizes(step_size: Any) -> Callable[[Any, Any], PyTree]:
    """``(count, inner state) -> step sizes`` from a number, a schedule or a function of the state."""
    if not callable(step_size):
        check_number(step_size, "step_size", "proximal_optimizer")
        return lambda count, state: step_size
    if _is_schedule(step_size):
        return lambda count, state: step_size(count)
    return lambda count, state: step_size(state)


def _is_schedule(function: Callable[[Any], Any]) -> bool:
    # A function of an optimizer's state looks fields up, and a count has none of them;
    # a schedule computes with the count.
    try:
        value = function(jnp.zeros([], jnp.int32))
    except Exception:  # whatever it makes of a count, an assertion included
        return False
    return value is not None and np.shape(value) == ()
