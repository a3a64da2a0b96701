"""Hold a found support: exact zeros stay zero."""

from typing import Any

import jax.numpy as jnp
import optax

from jaxreg.masks import as_mask
from jaxreg.transforms.new_parameters import check_fit, require_optimizer, require_params
from jaxreg.tree import FlatTree, PyTree, flatten, is_inexact


def freeze_zeros(
    optimizer: optax.GradientTransformation, *, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Run an optimizer on the non-zero weights only, so that a found support can be refitted.

    .. math:: w_i \leftarrow w_i + u_i \ \text{where } w_i \ne 0, \qquad w_i \leftarrow 0 \ \text{elsewhere}

    The optimizer sees zero gradients at frozen weights, so that norms it takes (clipping) are
    those of the live ones, and momentum that it still carries there has no effect.

    Args:
        optimizer: any optax optimizer.
        mask: which leaves are held, as in :func:`jaxreg.l1`. Other leaves train freely: biases
            that start at zero must not be held, or they never move.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` with the optimizer's own state.

    Raises:
        TypeError: for a bad optimizer or mask.
        ValueError: at ``update``, if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.freeze_zeros(optax.sgd(0.5))
        >>> params = jnp.array([1.0, 0.0])
        >>> updates, _ = optimizer.update(jnp.ones(2), optimizer.init(params), params)
        >>> print(optax.apply_updates(params, updates))
        [0.5 0. ]

    Notes:
        A penalty's shrinkage biases the weights that stay; a refit on their support removes it.

    References:
        Meinshausen, Relaxed lasso, 2007, https://doi.org/10.1016/j.csda.2006.12.019
    """
    inner = require_optimizer(optimizer, "freeze_zeros")
    held = as_mask(mask)

    def init(params: PyTree) -> Any:
        check_fit(held.select, params)
        return inner.init(params)

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, Any]:
        require_params(params)
        flat = flatten(params)
        updates, state = inner.update(_live(updates, flat), state, params, **extra_args)
        return _live(updates, flat), state

    def _live(updates: PyTree, flat: FlatTree) -> PyTree:
        moves = flat.align(updates, "updates")
        for index in held.indices(flat):
            if is_inexact(moves[index]):
                move = moves[index]
                moves[index] = jnp.where(jnp.asarray(flat.leaves[index]) == 0, jnp.zeros_like(move), move)
        return flat.rebuild(moves)

    return optax.GradientTransformationExtraArgs(init, update)
