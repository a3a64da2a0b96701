"""The unit-norm constraint: groups on the sphere."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxreg.group_kinds import Groups
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.constraint import NormConstraint, Piece, checked_structure


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnitNorm(NormConstraint):
    """See :func:`unit_norm`."""

    kind: ClassVar[str] = "unit_norm"

    def interval(self, term: Piece) -> tuple[Any, Any]:
        return 1.0, 1.0


def unit_norm(groups: Groups | None, *, mask: Any = None) -> Penalty:
    r"""Keep the l2 norm of each group at 1; without groups each weight at -1 or 1.

    .. math::
        R(w) = \begin{cases} 0 & \lVert w_g \rVert_2 = 1 \text{ for all } g \\ \infty & \text{otherwise}
        \end{cases}, \qquad
        \mathrm{prox}(x, s)_g = \operatorname{argmin}_{\lVert z \rVert_2 = 1}
        \sum_{i \in g} \frac{(z_i - x_i)^2}{2 s} = \frac{x_g}{\lVert x_g \rVert_2}

    Not convex. All points of the sphere are equally near to a zero group: it goes to the vector of
    equal entries, :math:`1 / \sqrt{|g|}`.

    Args:
        groups: a structure of :mod:`jaxreg.groups`, such as ``jaxreg.groups.outputs()``. None is
            each element by itself, which makes weights binary. Static.
        mask: which leaves are constrained, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside (to rounding) and infinity outside, its prox
        the projection. Over groups it takes one step size per leaf, not per element. Its
        ``optimality`` is 0 at stationary points, of which not all are minima.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: when used, for a leaf that the groups do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 0.0]])}
        >>> constraint = jaxreg.unit_norm(jaxreg.groups.outputs())
        >>> print(constraint.prox(params, 0.1)["kernel"].round(3))
        [[0.6   0.707]
         [0.8   0.707]]

    Notes:
        Derivatives at a zero group are 0. The value has gradient 0: use the prox, last in a chain,
        through :func:`jaxreg.proximal`, or in :func:`jaxreg.prox_sgd`. Keras' ``UnitNorm(axis=0)`` on
        a dense kernel is ``unit_norm(jaxreg.groups.outputs())``, but for the 1e-7 that Keras adds to
        the norm.

    References:
        Salimans and Kingma, Weight normalization, 2016, arXiv:1602.07868. Binary weights: Courbariaux,
        Bengio and David, BinaryConnect, 2015, arXiv:1511.00363
    """
    return UnitNorm(as_mask(mask), checked_structure(groups, "unit_norm"))
