"""Decoupled weight decay for the end of any optax chain."""

from typing import Any

import jax.numpy as jnp
import optax

from jaxreg.arguments import check_rate
from jaxreg.masks import as_mask
from jaxreg.transforms.new_parameters import check_fit, rate_at, require_params, update_dtype
from jaxreg.transforms.proximal import ProximalState
from jaxreg.tree import PyTree, as_real, cast, flatten, is_inexact, upcast


def weight_decay(
    strength: Any, *, learning_rate: Any = None, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Shrink weights by a fixed share per step, apart from the gradient. LAST in a chain.

    .. math::
        u \leftarrow u - \eta_k \lambda w \quad (\text{with a learning rate}), \qquad
        u \leftarrow u - \lambda w \quad (\text{without})

    Args:
        strength: lambda, a non-negative number or a schedule: the share of the weight that
            goes, per step (``learning_rate=None``) or per unit of learning rate.
        learning_rate: eta, a non-negative number or a schedule, evaluated at the count before
            this update; None makes the decay independent of it, as in the paper.
        mask: which leaves decay, as in :func:`jaxreg.l1`.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; its state is a count. An update has the
        wider dtype of parameter and incoming update, computed in at least float32.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        The decay of ``optax.adamw(0.1, weight_decay=0.01)``, attached to any optimizer:

        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = optax.chain(optax.sgd(0.1), jaxreg.weight_decay(0.01, learning_rate=0.1))
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
        >>> print(updates)
        [-0.001  0.002]

    Notes:
        ``optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(lr),
        weight_decay(wd, learning_rate=lr))`` is ``optax.adamw(lr, weight_decay=wd)``. For the
        coupled form, L2 in the loss, put ``add_penalty(l2(wd / 2))`` before the optimizer.
        Place it after momentum's trace as here: a decay that goes through the trace is
        stronger by ``1 / (1 - momentum)``.

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, 2019, algorithm 2, arXiv:1711.05101
    """
    check_rate(strength, "strength", "weight_decay")
    if learning_rate is not None:
        check_rate(learning_rate, "learning_rate", "weight_decay")
    chosen = as_mask(mask)

    def init(params: PyTree) -> ProximalState:
        check_fit(chosen.select, params)
        return ProximalState(jnp.zeros([], jnp.int32))

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, ProximalState]:
        del extra_args
        require_params(params)
        share = rate_at(strength, state.count, "weight_decay", "strength")
        if learning_rate is not None:
            share = share * rate_at(learning_rate, state.count, "weight_decay", "learning_rate")
        flat = flatten(params)
        moves = flat.align(updates, "updates")
        for index in chosen.indices(flat):
            if is_inexact(moves[index]):
                moves[index] = _decayed(flat.leaves[index], moves[index], share)
        return flat.rebuild(moves), ProximalState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def _decayed(leaf: Any, move: Any, share: Any) -> Any:
    wide = upcast(leaf)
    return cast(upcast(move) - as_real(share, wide) * wide, update_dtype(leaf, move))
