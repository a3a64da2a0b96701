"""The smoothly clipped absolute deviation."""

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
class SCAD(RadialPenalty):
    """See :func:`scad`."""

    kind: ClassVar[str] = "scad"
    gamma: Any

    def phi(self, r: Any, strength: Any) -> Any:
        small = jnp.minimum(r, strength)
        # The second piece, from strength to gamma * strength, where the slope falls to 0.
        beyond = jnp.clip(r - strength, 0.0, (self.gamma - 1) * strength)
        return strength * small + beyond * (strength - beyond / (2 * (self.gamma - 1)))

    def slope(self, r: Any, strength: Any) -> Any:
        return jnp.clip((self.gamma * strength - r) / (self.gamma - 1), 0.0, strength)

    def slope_at_zero(self, strength: Any) -> Any:
        return strength

    def shrink(self, r: Any, step: Any, strength: Any) -> Any:
        soft = jnp.maximum(r - step * strength, 0.0)
        convex = step < self.gamma - 1
        room = jnp.where(convex, self.gamma - 1 - step, 1.0)
        middle = jnp.minimum(((self.gamma - 1) * r - step * self.gamma * strength) / room, r)
        smooth = jnp.where(r > self.gamma * strength, r, jnp.where(r > (1 + step) * strength, middle, soft))
        # For longer steps the middle piece has no minimum, and the objectives of the others decide.
        near = step <= self.gamma + 1
        cut = jnp.where(near, (self.gamma + 1 + step) / 2, jnp.sqrt(self.gamma + 1) * jnp.sqrt(step))
        return jnp.where(convex, smooth, jnp.where(r > cut * strength, r, soft))


def scad(
    strength: Any,
    gamma: Any = 3.7,
    groups: Groups | None = None,
    *,
    size_weights: bool = True,
    mask: Any = None,
) -> Penalty:
    r"""Penalise small weights like l1, large ones not at all, with a smooth way between.

    .. math::
        R(w) = \sum_i \varphi(|w_i|), \qquad
        \varphi(r) = \begin{cases} \lambda r & r \le \lambda \\
        \frac{2 \gamma \lambda r - r^2 - \lambda^2}{2 (\gamma - 1)} & \lambda < r \le \gamma \lambda \\
        \frac{\lambda^2 (\gamma + 1)}{2} & r > \gamma \lambda \end{cases}, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z \varphi(|z|) + \frac{(z - x_i)^2}{2 s_i}

    For steps below :math:`\gamma - 1` the prox is continuous: soft up to :math:`(1 + s) \lambda`, the
    identity beyond :math:`\gamma \lambda`. For longer ones it jumps, and is still the
    argmin. Not convex: where training starts decides where it ends.

    Args:
        strength: lambda, in units of loss. A non-negative number, a traced scalar, or a pytree prefix of the
            parameters with one number per leaf.
        gamma: a in the paper, a number above 2: nothing beyond ``gamma * lambda`` is shrunk. May be
            traced.
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
        >>> penalty = jaxreg.scad(1.0)
        >>> params = {"w": jnp.array([5.0, -3.0, 0.5])}
        >>> print(penalty(params).round(1))
        5.1
        >>> print(penalty.prox(params, 1.0)["w"].round(2))
        [ 5.   -2.59  0.  ]

    Notes:
        The gradient of the value at an exact zero is 0.

    References:
        Fan and Li, Variable selection via nonconcave penalized likelihood and its oracle properties,
        2001, equations 2.7 and 2.8, https://doi.org/10.1198/016214501753382273
    """
    fields = checked_radial(strength, groups, size_weights, mask, "scad")
    return SCAD(**fields, gamma=check_number(gamma, "gamma", "scad", low=2.0, open_low=True))
