"""A penalty's gradient, added to the loss's."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreg.penalties import Penalty
from jaxreg.transforms.new_parameters import check_fit, require_params, require_penalty
from jaxreg.tree import FlatTree, PyTree, cast, flatten, is_inexact, upcast


def add_penalty(penalty: Penalty) -> optax.GradientTransformationExtraArgs:
    r"""Add the gradient of a penalty to the gradients. BEFORE the optimizer in a chain.

    .. math:: g \leftarrow g + \nabla R(w)

    The same training as with ``loss + penalty(params)``, without touching the loss: the
    coupled form, in which the optimizer sees the penalty.

    Args:
        penalty: a :class:`jaxreg.Penalty`.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` without state. Updates keep their dtypes;
        leaves that the penalty does not reach pass through. Complex gradients are taken in
        optax's convention, the conjugate of ``jax.grad``'s.

    Raises:
        TypeError: if ``penalty`` is not a penalty.
        ValueError: at ``update``, if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = optax.chain(jaxreg.add_penalty(jaxreg.l2(0.05)), optax.sgd(0.1))
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
        >>> print(updates)
        [-0.01  0.02]

    Notes:
        ``add_penalty(l2(strength))`` is PyTorch's ``weight_decay = 2 * strength``. With l1 or
        group lasso it makes small weights, never exact zeros: use :func:`jaxreg.proximal` or a
        ``prox_*`` optimizer for those. At an exact zero the gradient added is 0.

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, 2019, section 2, arXiv:1711.05101
    """
    require_penalty(penalty, "add_penalty")

    def init(params: PyTree) -> optax.EmptyState:
        check_fit(penalty.touched, params)
        return optax.EmptyState()

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, optax.EmptyState]:
        del extra_args
        require_params(params)
        flat = flatten(params)
        moves = flat.align(updates, "updates")
        for index, slope in penalty_gradient(penalty, flat).items():
            if is_inexact(moves[index]):
                moves[index] = cast(moves[index] + slope, jnp.result_type(moves[index]))
        return flat.rebuild(moves), state

    return optax.GradientTransformationExtraArgs(init, update)


def penalty_gradient(penalty: Penalty, flat: FlatTree) -> dict[int, Any]:
    """The gradient of the value at each leaf it reaches, in computing precision and optax's convention."""
    leaves = {index: upcast(flat.leaves[index]) for index in penalty.touched(flat)}
    slopes = jax.grad(lambda xs: penalty.total_of(flat, xs))(leaves)
    return {index: jnp.conj(slope) for index, slope in slopes.items()}
