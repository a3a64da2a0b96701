"""The Huber penalty, a smooth l1 norm."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.arguments import check_number
from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import Penalty, Term
from jaxreg.penalties.radial import RadialPenalty, checked_radial


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Huber(RadialPenalty):
    """See :func:`huber`."""

    kind: ClassVar[str] = "huber"
    delta: Any

    def phi(self, r: Any, strength: Any) -> Any:
        return strength * jnp.where(r <= self.delta, r * (r / (2 * self.delta)), r - self.delta / 2)

    def slope(self, r: Any, strength: Any) -> Any:
        return strength * jnp.minimum(r / self.delta, 1.0)

    def slope_at_zero(self, strength: Any) -> Any:
        return jnp.zeros_like(strength)

    def shrink(self, r: Any, step: Any, strength: Any) -> Any:
        threshold = step * strength
        return jnp.where(
            r > self.delta + threshold, r - threshold, r * (self.delta / (self.delta + threshold))
        )

    def term_vanishing(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Any:
        raise self.never_vanishing()


def huber(
    strength: Any,
    delta: Any,
    groups: Groups | None = None,
    *,
    size_weights: bool = True,
    mask: Any = None,
) -> Penalty:
    r"""Penalise small weights quadratically and large ones like l1: robust shrinkage, no zeros.

    .. math::
        R(w) = \lambda \sum_i \begin{cases} \frac{w_i^2}{2 \delta} & |w_i| \le \delta \\
        |w_i| - \frac{\delta}{2} & |w_i| > \delta \end{cases}, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z R(z) + \frac{(z - x_i)^2}{2 s_i}

    Convex, and the Moreau envelope of l1 at :math:`\delta / \lambda`.

    Args:
        strength: lambda, in units of loss. A non-negative number, a traced scalar, or a pytree prefix of the
            parameters with one number per leaf.
        delta: the size of weight up to which the penalty is quadratic, a positive number. May be traced.
        groups: a structure of :mod:`jaxreg.groups`: phi is then taken of ``||w_g||``. Default: of
            each element's ``|w|``. Static.
        size_weights: with groups, multiply lambda by ``sqrt(|g|)``. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox keeps
        shapes and dtypes. Over groups the prox takes one step size per leaf, not per element.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a number is out of its range; when used, for a leaf that the groups do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.huber(1.0, 1.0)
        >>> params = {"w": jnp.array([4.0, -1.0, 0.0])}
        >>> print(penalty(params).round(2))
        4.0
        >>> print(penalty.prox(params, 1.0)["w"].round(2))
        [ 3.  -0.5  0. ]

    Notes:
        The gradient of the value at an exact zero is 0.

    References:
        Huber, Robust estimation of a location parameter, 1964, https://doi.org/10.1214/aoms/1177703732
    """
    fields = checked_radial(strength, groups, size_weights, mask, "huber")
    return Huber(**fields, delta=check_number(delta, "delta", "huber", open_low=True))
