"""One training step, without a second copy of the parameters."""

from typing import Any

import optax

from jaxreg.transforms.new_parameters import DirectTransformation, apply_updates, require_optimizer
from jaxreg.tree import PyTree


def step(
    optimizer: optax.GradientTransformation,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    **extra_args: Any,
) -> tuple[PyTree, PyTree]:
    """``optimizer.update`` and ``optax.apply_updates`` in one, for any optax optimizer.

    A proximal optimizer of jaxreg computes the new parameters directly: an update
    ``prox(p + u) - p`` that is added to ``p`` again costs a temporary of the size of the
    parameters where the prox needs more than one pass, as with groups. Same result, to rounding.

    Args:
        optimizer: any optax optimizer.
        grads: gradients, a pytree like ``params``.
        opt_state: the optimizer's state.
        params: a parameter pytree.
        **extra_args: passed on to ``optimizer.update`` (``value``, ``value_fn``, ...).

    Returns:
        The new ``(params, opt_state)``, of the same structures and dtypes. Parameters whose
        update is ``None`` stay as they are.

    Raises:
        TypeError: if ``optimizer`` is not an optimizer.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> optimizer = jaxreg.prox_sgd(0.5, jaxreg.l1(0.25))
        >>> params = jnp.array([1.0, 0.1])
        >>> params, state = jaxreg.step(optimizer, jnp.zeros(2), optimizer.init(params), params)
        >>> print(params)
        [0.875 0.   ]
    """
    if isinstance(optimizer, DirectTransformation):
        return optimizer.new_parameters(grads, opt_state, params, **extra_args)
    inner = require_optimizer(optimizer, "step")
    updates, opt_state = inner.update(grads, opt_state, params, **extra_args)
    return apply_updates(params, updates), opt_state
