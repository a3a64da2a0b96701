"""The l1 ball: a budget for the sum of moduli."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.arguments import check_number_tree
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.constraint import LineConstraint, Piece, checked_axis
from jaxreg.penalties.projections import best_level, project_l1_balls
from jaxreg.penalties.shrinkage import direction, group_norm, modulus, soft_threshold


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class L1Ball(LineConstraint):
    """See :func:`l1_ball`."""

    kind: ClassVar[str] = "l1_ball"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})

    def term_project(self, xs: Sequence[Any], steps: Sequence[Any], term: Piece) -> Sequence[Any]:
        return [project_l1_balls(xs[0], term.views[0], steps[0], term.strength[0])]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Piece
    ) -> Sequence[Any]:
        x, pull, view, (radius,) = xs[0], -grads[0], term.views[0], term.strength
        size, alive = modulus(x), x != 0
        # The normal cone at the edge: c times the subdifferential of the norm, for any c >= 0.
        along = jnp.where(alive, (pull * jnp.conj(direction(x))).real, jnp.abs(pull))
        at_edge = view.sum(size) >= radius * (1 - term.rounding)
        level = jnp.where(at_edge, jnp.maximum(best_level(along, view, alive), soft[0]), soft[0])
        rest = jnp.where(alive, pull - level * direction(x), soft_threshold(pull, level))
        return [jnp.broadcast_to(group_norm([rest], [view]), x.shape)]


def l1_ball(radius: Any, axis: Any = None, *, mask: Any = None) -> Penalty:
    r"""Keep ``sum |w|`` of each leaf, or along an axis, at or below ``radius``: exact zeros.

    .. math::
        R(w) = \begin{cases} 0 & \sum_i |w_i| \le r \\ \infty & \text{otherwise} \end{cases}, \qquad
        \mathrm{prox}(x, s) = \operatorname{argmin}_{\sum |z_i| \le r} \sum_i \frac{(z_i - x_i)^2}{2 s_i}

    Outside the ball it is the soft threshold :math:`\mathrm{sign}(x_i) \max(|x_i| - \tau s_i, 0)`, with
    :math:`\tau` the root of :math:`\sum_i |z_i| = r`, found by Newton's method, without sorting.

    Args:
        radius: r, in units of a weight. A non-negative number, a traced scalar, or a pytree prefix of
            the parameters with one number per leaf.
        axis: an integer or a tuple of integers: the axes along which is summed, each line having a
            ball of its own. Default: the whole leaf. Static.
        mask: which leaves are constrained, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside (to rounding) and infinity outside, its prox
        the projection. Complex weights shrink by modulus.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``radius`` is negative, infinite or NaN; when used, for a leaf without the axis.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> constraint = jaxreg.l1_ball(2.0)
        >>> print(constraint.prox(jnp.array([3.0, -2.0, 0.5]), 0.1))
        [ 1.5 -0.5  0. ]

    Notes:
        This is the lasso with a budget in place of a price. The value has gradient 0: use the prox,
        last in a chain, through :func:`jaxreg.proximal`, or in :func:`jaxreg.prox_sgd`. An element with
        step size 0 keeps its value; the others meet the radius as far as they can.

    References:
        Duchi, Shalev-Shwartz, Singer and Chandra, Efficient projections onto the l1-ball for learning
        in high dimensions, 2008, https://doi.org/10.1145/1390156.1390191. The iteration: Michelot, A
        finite algorithm for finding the projection of a point onto the canonical simplex, 1986,
        https://doi.org/10.1007/BF00938486
    """
    return L1Ball(
        as_mask(mask), check_number_tree(radius, "radius", "l1_ball"), checked_axis(axis, "l1_ball")
    )
