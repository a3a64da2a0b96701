"""Give a tree the exact zeros of another one: how an average keeps a support."""

from typing import Any

import jax.numpy as jnp

from jaxreg.mask_algebra import Mask
from jaxreg.masks import as_mask
from jaxreg.tree import FlatTree, PyTree, flatten, is_inexact


def keep_zeros(params: PyTree, like: PyTree, *, mask: Any = None) -> PyTree:
    r"""Set to exactly 0 what is exactly 0 in another tree, such as an average where its weights are 0.

    .. math:: z_i = 0 \ \text{where } v_i = 0, \qquad z_i = w_i \ \text{elsewhere}

    A moving average of weights is zero only where the weight has been zero ever since it started,
    so it loses nearly all the zeros of a sparse run. This gives them back.

    Args:
        params: w, a parameter pytree, such as an average.
        like: v, a pytree of the same structure and shapes whose zeros count.
        mask: which leaves take part, as in :func:`jaxreg.l1`.

    Returns:
        A pytree like ``params``: same structure, shapes and dtypes, and the same bits where
        ``like`` is not 0. Leaves that the mask leaves out, ``None``, ``optax.MaskedNode`` and
        leaves that are not floating are the same objects.

    Raises:
        TypeError: for a bad mask.
        ValueError: if structures or shapes differ, or the mask selects nothing.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> params, average = jnp.array([2.0, 0.0]), jnp.array([1.0, 0.5])
        >>> average = optax.incremental_update(params, average, 0.1)
        >>> print(average, jaxreg.keep_zeros(average, params))
        [1.1  0.45] [1.1 0. ]

    Notes:
        Average first, for as long as wanted, and apply this to the copy that is evaluated or saved:
        the running average itself needs no zeros. The other way is ``penalty.prox(average, step_size)``
        with the step size of the training (the learning rate of :func:`jaxreg.prox_sgd` over
        ``1 - momentum``): it zeroes what is on average no further from 0 than one prox reaches,
        whatever the last step did, keeps whole groups, and shrinks the rest by one prox more.

    References:
        Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992,
        https://doi.org/10.1137/0330046
    """
    return with_zeros(flatten(like), as_mask(mask), params, "params")


def with_zeros(like: FlatTree, mask: Mask, tree: PyTree, name: str, where: Any = True) -> PyTree:
    """``tree`` with the exact zeros of the masked leaves of ``like``, all of them only if ``where``."""
    leaves = like.align(tree, name)
    for index in mask.indices(like):
        leaf = leaves[index]
        if is_inexact(leaf):
            is_zero = (jnp.asarray(like.leaves[index]) == 0) & where
            leaves[index] = jnp.where(is_zero, jnp.zeros_like(leaf), leaf)
    return like.rebuild(leaves)
