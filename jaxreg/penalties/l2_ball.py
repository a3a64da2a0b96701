"""The l2 ball: a bound on the norm of whole leaves."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxreg.arguments import check_number_tree
from jaxreg.groups import layers
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.constraint import NormConstraint, Piece


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class L2Ball(NormConstraint):
    """See :func:`l2_ball`."""

    kind: ClassVar[str] = "l2_ball"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})
    bounds: ClassVar[tuple[str, ...]] = ("radius",)
    radius: Any

    def interval(self, term: Piece) -> tuple[Any, Any]:
        return None, term.strength[0]


def l2_ball(radius: Any, *, mask: Any = None) -> Penalty:
    r"""Keep each leaf in the ball ``||w||_2 <= radius``.

    .. math::
        R(w) = \begin{cases} 0 & \lVert w \rVert_2 \le r \\ \infty & \text{otherwise} \end{cases}, \qquad
        \mathrm{prox}(x, s) = \operatorname{argmin}_{\lVert z \rVert_2 \le r}
        \sum_i \frac{(z_i - x_i)^2}{2 s_i}

    With one step size this is :math:`x \min(1, r / \lVert x \rVert_2)`, whatever the step; with a step
    per element see :func:`jaxreg.max_norm`.

    Args:
        radius: r, in units of a weight. A non-negative number, a traced scalar, or a pytree prefix of
            the parameters with one number per leaf.
        mask: which leaves are constrained, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside (to rounding) and infinity outside, its prox
        the projection.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``radius`` is negative, infinite or NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> constraint = jaxreg.l2_ball(1.0)
        >>> print(constraint.prox(jnp.array([3.0, 4.0]), 0.1))
        [0.6 0.8]

    Notes:
        Each leaf has a ball of its own; a ball for each group is :func:`jaxreg.max_norm`. This is no
        bound on the norm of all parameters together. The value has gradient 0: use the prox, last in a
        chain, through :func:`jaxreg.proximal`, or in :func:`jaxreg.prox_sgd`.

    References:
        Parikh and Boyd, Proximal algorithms, 2014, section 6.5, https://doi.org/10.1561/2400000003
    """
    return L2Ball(as_mask(mask), layers(), check_number_tree(radius, "radius", "l2_ball"))
