"""One training step, without a second copy of the parameters."""

from typing import Any

import optax

from jaxreg.transforms.new_parameters import DirectTransformation
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
        The new ``(params, opt_state)``, of the same structures and dtypes.

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
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        grads, opt_state, params, **extra_args
    )
    return optax.apply_updates(params, updates), opt_state
