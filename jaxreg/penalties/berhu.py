"""The reversed Huber penalty: l1 near zero, a square beyond."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.arguments import check_number
from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.radial import RadialPenalty, checked_radial


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BerHu(RadialPenalty):
    """See :func:`berhu`."""

    kind: ClassVar[str] = "berhu"
    delta: Any

    def phi(self, r: Any, strength: Any) -> Any:
        return strength * jnp.where(r <= self.delta, r, r * (r / (2 * self.delta)) + self.delta / 2)

    def slope(self, r: Any, strength: Any) -> Any:
        return strength * jnp.maximum(r / self.delta, 1.0)

    def slope_at_zero(self, strength: Any) -> Any:
        return strength

    def shrink(self, r: Any, step: Any, strength: Any) -> Any:
        threshold = step * strength
        return jnp.where(
            r > self.delta + threshold,
            r * (self.delta / (self.delta + threshold)),
            jnp.maximum(r - threshold, 0.0),
        )


def berhu(
    strength: Any,
    delta: Any,
    groups: Groups | None = None,
    *,
    size_weights: bool = True,
    mask: Any = None,
) -> Penalty:
    r"""Penalise small weights like l1 and large ones quadratically: zeros, and no weight that dominates.

    .. math::
        R(w) = \lambda \sum_i \begin{cases} |w_i| & |w_i| \le \delta \\
        \frac{w_i^2 + \delta^2}{2 \delta} & |w_i| > \delta \end{cases}, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z R(z) + \frac{(z - x_i)^2}{2 s_i}

    Convex, the reverse of :func:`jaxreg.huber`: where the elastic net adds a square everywhere, this
    one shrinks weights below delta by l1 alone.

    Args:
        strength: lambda, in units of loss. A non-negative number, a traced scalar, or a pytree prefix of the
            parameters with one number per leaf.
        delta: the size of weight from which on the penalty is quadratic, a positive number. May be traced.
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
        >>> penalty = jaxreg.berhu(1.0, 2.0)
        >>> params = {"w": jnp.array([6.0, -1.5, 0.5])}
        >>> print(penalty(params).round(2))
        12.0
        >>> print(penalty.prox(params, 1.0)["w"].round(2))
        [ 4.  -0.5  0. ]

    Notes:
        The gradient of the value at an exact zero is 0.

    References:
        Owen, A robust hybrid of lasso and ridge regression, Contemporary Mathematics 443, 2007
    """
    fields = checked_radial(strength, groups, size_weights, mask, "berhu")
    return BerHu(**fields, delta=check_number(delta, "delta", "berhu", open_low=True))
