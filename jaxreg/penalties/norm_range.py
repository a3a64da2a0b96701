"""Norms in a range: groups neither too long nor too short."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxreg.arguments import check_number_tree
from jaxreg.group_kinds import Groups
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.constraint import NormConstraint, Piece, check_ordered, checked_structure


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NormRange(NormConstraint):
    """See :func:`norm_range`."""

    kind: ClassVar[str] = "norm_range"
    bounds: ClassVar[tuple[str, ...]] = ("low", "high")
    low: Any
    high: Any

    def interval(self, term: Piece) -> tuple[Any, Any]:
        return term.strength


def norm_range(low: Any, high: Any, groups: Groups | None, *, mask: Any = None) -> Penalty:
    r"""Keep the l2 norm of each group, or the modulus of each weight, between ``low`` and ``high``.

    .. math::
        R(w) = \begin{cases} 0 & a \le \lVert w_g \rVert_2 \le b \text{ for all } g \\
        \infty & \text{otherwise} \end{cases}, \qquad
        \mathrm{prox}(x, s)_g = \operatorname{argmin}_{a \le \lVert z \rVert_2 \le b}
        \sum_{i \in g} \frac{(z_i - x_i)^2}{2 s}
        = x_g \frac{\min(\max(\lVert x_g \rVert_2, a), b)}{\lVert x_g \rVert_2}

    Not convex unless ``low`` is 0. A zero group, to which no point is nearest, goes to the vector of
    equal entries and norm ``low``.

    Args:
        low: a, in units of a weight. A non-negative number, a traced scalar, or a pytree prefix of the
            parameters with one number per leaf.
        high: b, likewise, not below ``low`` (not checked where traced).
        groups: a structure of :mod:`jaxreg.groups`; None is each element by itself. Static.
        mask: which leaves are constrained, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside (to rounding) and infinity outside, its prox
        the projection. Over groups it takes one step size per leaf, not per element. Its
        ``optimality`` is 0 at stationary points, of which not all are minima.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a number is negative, infinite or NaN, or ``low`` is above ``high``; when used,
            for a leaf that the groups do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[6.0, 0.3, 0.6], [8.0, 0.4, 0.8]])}
        >>> constraint = jaxreg.norm_range(1.0, 5.0, jaxreg.groups.outputs())
        >>> print(constraint.prox(params, 0.1)["kernel"])
        [[3.  0.6 0.6]
         [4.  0.8 0.8]]

    Notes:
        The value has gradient 0: use the prox, last in a chain, through :func:`jaxreg.proximal`, or in
        :func:`jaxreg.prox_sgd`. Keras' ``MinMaxNorm(low, high, rate=1.0, axis=0)`` on a dense kernel is
        ``norm_range(low, high, jaxreg.groups.outputs())``; a ``rate`` below 1 is no projection.

    References:
        Keras, ``keras.constraints.MinMaxNorm``, https://keras.io/api/layers/constraints/
    """
    low = check_number_tree(low, "low", "norm_range")
    high = check_number_tree(high, "high", "norm_range")
    check_ordered(low, high, "norm_range")
    return NormRange(as_mask(mask), checked_structure(groups, "norm_range"), low, high)
