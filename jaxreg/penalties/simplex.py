"""The simplex: weights that are shares of a whole."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.arguments import check_number_tree
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.constraint import LineConstraint, Piece, checked_axis
from jaxreg.penalties.projections import best_level, project_simplices
from jaxreg.penalties.shrinkage import group_norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Simplex(LineConstraint):
    """See :func:`simplex`."""

    kind: ClassVar[str] = "simplex"
    real_only: ClassVar[bool] = True

    def term_project(self, xs: Sequence[Any], steps: Sequence[Any], term: Piece) -> Sequence[Any]:
        return [project_simplices(xs[0], term.views[0], steps[0], term.strength[0])]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Piece
    ) -> Sequence[Any]:
        x, pull, view = xs[0], -grads[0], term.views[0]
        # The normal cone: c for the elements above 0, anything up to c for the zeros.
        rest = pull - best_level(pull, view, x > 0)
        rest = jnp.where((x > 0) | (rest > 0), rest, 0.0)
        return [jnp.broadcast_to(group_norm([rest], [view]), x.shape)]


def simplex(radius: Any = 1.0, axis: Any = None, *, mask: Any = None) -> Penalty:
    r"""Keep the weights of each leaf, or along an axis, non-negative and their sum at ``radius``.

    .. math::
        R(w) = \begin{cases} 0 & w \ge 0, \sum_i w_i = r \\ \infty & \text{otherwise} \end{cases}, \qquad
        \mathrm{prox}(x, s) = \operatorname{argmin}_{z \ge 0, \sum z_i = r}
        \sum_i \frac{(z_i - x_i)^2}{2 s_i}

    It is :math:`z_i = \max(x_i - \tau s_i, 0)`, with :math:`\tau` the root of
    :math:`\sum_i z_i = r`, found by Newton's method, without sorting. At ``radius`` 1 and one step
    size this is sparsemax.

    Args:
        radius: r, in units of a weight. A non-negative number, a traced scalar, or a pytree prefix of
            the parameters with one number per leaf.
        axis: an integer or a tuple of integers: the axes along which is summed, each line being a
            simplex of its own. Default: the whole leaf. Static.
        mask: which leaves are constrained, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside (to rounding) and infinity outside, its prox
        the projection.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``radius`` is negative, infinite or NaN; when used, for a complex leaf or one
            without the axis.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> rows = jaxreg.simplex(axis=-1)
        >>> print(rows.prox(jnp.array([[0.5, 1.0, -3.0], [2.0, 9.0, 2.0]]), 0.1))
        [[0.25 0.75 0.  ]
         [0.   1.   0.  ]]

    Notes:
        The value has gradient 0: use the prox, last in a chain, through :func:`jaxreg.proximal`, or in
        :func:`jaxreg.prox_sgd`. An element with step size 0 keeps its value; the others meet the sum as
        far as they can.

    References:
        Duchi, Shalev-Shwartz, Singer and Chandra, Efficient projections onto the l1-ball for learning
        in high dimensions, 2008, https://doi.org/10.1145/1390156.1390191. The iteration: Michelot, A
        finite algorithm for finding the projection of a point onto the canonical simplex, 1986,
        https://doi.org/10.1007/BF00938486. Martins and Astudillo, From softmax to sparsemax, 2016,
        arXiv:1602.02068
    """
    return Simplex(
        as_mask(mask), check_number_tree(radius, "radius", "simplex"), checked_axis(axis, "simplex")
    )
