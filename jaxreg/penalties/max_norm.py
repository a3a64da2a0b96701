"""The max-norm constraint: no weight, or no group of weights, longer than a radius."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxreg.arguments import check_number_tree
from jaxreg.group_kinds import Groups
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.constraint import NormConstraint, Piece, checked_structure


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaxNorm(NormConstraint):
    """See :func:`max_norm`."""

    kind: ClassVar[str] = "max_norm"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})
    bounds: ClassVar[tuple[str, ...]] = ("radius",)
    radius: Any

    def interval(self, term: Piece) -> tuple[Any, Any]:
        return None, term.strength[0]


def max_norm(radius: Any, groups: Groups | None, *, mask: Any = None) -> Penalty:
    r"""Keep the l2 norm of each group, or the modulus of each weight, at or below ``radius``.

    .. math::
        R(w) = \begin{cases} 0 & \lVert w_g \rVert_2 \le r \text{ for all } g \\ \infty & \text{otherwise}
        \end{cases}, \qquad
        \mathrm{prox}(x, s)_g = \operatorname{argmin}_{\lVert z \rVert_2 \le r}
        \sum_{i \in g} \frac{(z_i - x_i)^2}{2 s_i}

    With one step size this is the projection :math:`x_g \min(1, r / \lVert x_g \rVert_2)`, whatever
    the step. With a step per element it is :math:`z_i = x_i / (1 + \mu s_i)`, with :math:`\mu` the
    root of :math:`\lVert z \rVert_2 = r`, found by Newton's method.

    Args:
        radius: r, in units of a weight. A non-negative number, a traced scalar, or a pytree prefix of
            the parameters with one number per leaf.
        groups: a structure of :mod:`jaxreg.groups`; None is each element by itself. Static.
        mask: which leaves are constrained, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside (to rounding) and infinity outside, its prox
        the projection. Complex weights are constrained in their modulus.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``radius`` is negative, infinite or NaN; when used, for a leaf that the groups
            do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[3.0, 0.3], [4.0, 0.4]])}
        >>> constraint = jaxreg.max_norm(1.0, jaxreg.groups.outputs())
        >>> float(constraint(params))
        inf
        >>> print(constraint.prox(params, 0.1)["kernel"])
        [[0.6 0.3]
         [0.8 0.4]]

    Notes:
        The value has gradient 0 and is of no use in a loss: use the prox, last in a chain, through
        :func:`jaxreg.proximal`, or in :func:`jaxreg.prox_sgd`. An element with step size 0 keeps its
        value; its group then meets the radius as far as the others can. Keras'
        ``MaxNorm(r, axis=0)`` on a dense kernel is ``max_norm(r, jaxreg.groups.outputs())``.

    References:
        Srebro, Rennie and Jaakkola, Maximum-margin matrix factorization, 2004. In networks:
        Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, Dropout, 2014, section 5.1,
        https://jmlr.org/papers/v15/srivastava14a.html
    """
    return MaxNorm(
        as_mask(mask), checked_structure(groups, "max_norm"), check_number_tree(radius, "radius", "max_norm")
    )
