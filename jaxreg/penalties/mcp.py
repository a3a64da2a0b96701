"""The minimax concave penalty."""

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
class MCP(RadialPenalty):
    """See :func:`mcp`."""

    kind: ClassVar[str] = "mcp"
    gamma: Any

    def phi(self, r: Any, strength: Any) -> Any:
        inside = jnp.minimum(r, self.gamma * strength)
        return inside * (strength - inside / (2 * self.gamma))

    def slope(self, r: Any, strength: Any) -> Any:
        return jnp.maximum(strength - r / self.gamma, 0.0)

    def slope_at_zero(self, strength: Any) -> Any:
        return strength

    def shrink(self, r: Any, step: Any, strength: Any) -> Any:
        convex = step < self.gamma
        room = jnp.where(convex, 1 - step / self.gamma, 1.0)
        firm = jnp.minimum(jnp.maximum(r - step * strength, 0.0) / room, r)
        # From step gamma on only the ends are minima.
        cut = strength * jnp.where(convex, self.gamma, jnp.sqrt(self.gamma) * jnp.sqrt(step))
        return jnp.where(r > cut, r, jnp.where(convex, firm, 0.0))


def mcp(
    strength: Any,
    gamma: Any = 3.0,
    groups: Groups | None = None,
    *,
    size_weights: bool = True,
    mask: Any = None,
) -> Penalty:
    r"""Penalise small weights like l1 and large ones not at all: zeros without bias.

    .. math::
        R(w) = \sum_i \varphi(|w_i|), \qquad
        \varphi(r) = \begin{cases} \lambda r - \frac{r^2}{2 \gamma} & r \le \gamma \lambda \\
        \frac{\gamma \lambda^2}{2} & r > \gamma \lambda \end{cases}, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z \varphi(|z|) + \frac{(z - x_i)^2}{2 s_i}

    The prox is a firm threshold: 0 up to :math:`s \lambda`, the identity beyond
    :math:`\gamma \lambda`, linear between; from :math:`s \ge \gamma` on a hard threshold at
    :math:`\lambda \sqrt{\gamma s}`. Not convex: where training starts decides where it ends.

    Args:
        strength: lambda, in units of loss. A non-negative number, a traced scalar, or a pytree prefix of the
            parameters with one number per leaf.
        gamma: how far the penalty reaches, a positive number: nothing beyond ``gamma * lambda`` is
            shrunk. Infinity would be l1. May be traced.
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
        >>> penalty = jaxreg.mcp(1.0)
        >>> params = {"w": jnp.array([4.0, -2.0, 0.5])}
        >>> print(penalty(params).round(2))
        3.29
        >>> print(penalty.prox(params, 1.0)["w"].round(2))
        [ 4.  -1.5  0. ]

    Notes:
        The gradient of the value at an exact zero is 0.

        Where an optimizer divides by the size of the gradient, as :func:`jaxreg.prox_adam` does, a
        weight beyond ``gamma * lambda`` has no gradient left at the minimum, its step grows past
        gamma, and the prox may then set it to 0. Take a gamma that keeps the weights inside, or
        :func:`jaxreg.prox_sgd`.

    References:
        Zhang, Nearly unbiased variable selection under minimax concave penalty, 2010, equation 2.1,
        https://doi.org/10.1214/09-AOS729
    """
    fields = checked_radial(strength, groups, size_weights, mask, "mcp")
    return MCP(**fields, gamma=check_number(gamma, "gamma", "mcp", open_low=True))
