"""Hold a found support: exact zeros stay zero."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreg.arguments import check_window
from jaxreg.masks import as_mask
from jaxreg.optimizers.keep_zeros import with_zeros
from jaxreg.optimizers.step import step
from jaxreg.transforms.new_parameters import (
    DirectTransformation,
    check_fit,
    require_optimizer,
    require_params,
)
from jaxreg.tree import PyTree, flatten


class FreezeZerosState(NamedTuple):
    """The count of updates, for the steps, and the wrapped optimizer's state."""

    count: jax.typing.ArrayLike
    inner: Any


def freeze_zeros(
    optimizer: optax.GradientTransformation, *, mask: Any = None, begin_step: Any = 0, end_step: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Run an optimizer on the non-zero weights only, so that a found support can be refitted.

    .. math::
        w_i \leftarrow 0 \ \text{where } w_i = 0 \text{ and } \text{begin} \le k < \text{end}, \qquad
        w_i \leftarrow w_i + u_i \ \text{elsewhere},

    with k the number of updates made before this one. While zeros are held the optimizer sees zero
    gradients there, so that norms it takes (clipping) are those of the live weights, and momentum that
    it still carries there has no effect. Outside these steps it computes what the optimizer alone
    computes, to the last bit (under ``jit`` to rounding: a compiler may fuse the two differently).

    Args:
        optimizer: any optax optimizer, the proximal ones of jaxreg among them.
        mask: which leaves are held, as in :func:`jaxreg.l1`. Other leaves train freely: biases
            that start at zero must not be held, or they never move.
        begin_step: the first update that holds zeros, counted from 0: a non-negative whole number,
            which may be traced.
        end_step: the first update that holds them no longer, larger than ``begin_step``; None for never.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` whose state is a count and the optimizer's state, and
        whose ``update`` takes ``hold=``: True or False, which may be traced, decides for this update
        in place of the steps. It is not passed on to the optimizer. :func:`jaxreg.step` passes it here too.

    Raises:
        TypeError: for a bad optimizer, mask, step or ``hold``.
        ValueError: for negative steps or an ``end_step`` that is not after ``begin_step``; at ``update``,
            if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.freeze_zeros(optax.sgd(0.5), end_step=2)
        >>> params = jnp.array([2.0, 0.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(3):
        ...     params, state = jaxreg.step(optimizer, jnp.ones(2), state, params)
        ...     print(params)
        [1.5 0. ]
        [1. 0.]
        [ 0.5 -0.5]
        >>> params, state = jaxreg.step(optimizer, jnp.ones(2), state, jnp.zeros(2), hold=True)
        >>> print(params)
        [0. 0.]

    Notes:
        A penalty's shrinkage biases the weights that stay; a refit on their support removes it. To go on
        with an optimizer that has already run, give its state to the new one:
        ``optimizer.init(params)._replace(inner=state)``.

        Dense-Sparse-Dense training is ``begin_step`` at the pruning, which is yours to do (any weight
        set to exactly 0 counts), and ``end_step`` at the last dense phase, where the authors use a tenth
        of the learning rate. Around a proximal optimizer the zeros that its prox makes are held as well:
        while held, the support only shrinks. Inside ``optax.MultiSteps`` the steps are those of the
        optimizer, not the micro-steps.

    References:
        Meinshausen, Relaxed lasso, 2007, https://doi.org/10.1016/j.csda.2006.12.019. Han et al., DSD:
        Dense-Sparse-Dense training for deep neural networks, 2017, algorithm 1, arXiv:1607.04381
    """
    inner = require_optimizer(optimizer, "freeze_zeros")
    held = as_mask(mask)
    check_window(begin_step, end_step, "freeze_zeros")

    def init(params: PyTree) -> FreezeZerosState:
        check_fit(held.select, params)
        return FreezeZerosState(jnp.zeros([], jnp.int32), inner.init(params))

    def is_holding(count: Any) -> Any:
        begun = count >= begin_step
        return begun if end_step is None else begun & (count < end_step)

    def advance(take: Callable[..., tuple[PyTree, Any]]) -> Callable[..., tuple[PyTree, FreezeZerosState]]:
        def run(
            updates: PyTree, state: Any, params: PyTree = None, *, hold: Any = None, **extra_args: Any
        ) -> tuple[PyTree, FreezeZerosState]:
            require_params(params)
            flat = flatten(params)
            where = is_holding(state.count) if hold is None else _check_hold(hold)
            updates = with_zeros(flat, held, updates, "updates", where)
            result, inner_state = take(updates, state.inner, params, **extra_args)
            result = with_zeros(flat, held, result, "updates", where)
            return result, FreezeZerosState(optax.safe_increment(state.count), inner_state)

        return run

    # A zero update and a new parameter of zero are the same thing where the parameter is zero.
    return DirectTransformation.make(init, advance(inner.update), advance(functools.partial(step, inner)))


def _check_hold(hold: Any) -> Any:
    scalar = getattr(hold, "shape", None) == () and getattr(hold, "dtype", None) == np.bool_
    if not (isinstance(hold, bool) or scalar):
        raise TypeError(
            f"The 'hold' parameter of freeze_zeros must be True, False or a boolean scalar. Got {hold!r}."
        )
    return hold
