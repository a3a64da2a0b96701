"""The l0 penalty: a price per non-zero."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.radial import RadialPenalty, checked_radial


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class L0(RadialPenalty):
    """See :func:`l0`."""

    kind: ClassVar[str] = "l0"

    def phi(self, r: Any, strength: Any) -> Any:
        return jnp.broadcast_to(strength, jnp.shape(r))

    def slope(self, r: Any, strength: Any) -> Any:
        return jnp.zeros_like(r)

    def slope_at_zero(self, strength: Any) -> Any:
        return jnp.where(strength > 0, jnp.inf, 0.0)

    def shrink(self, r: Any, step: Any, strength: Any) -> Any:
        return jnp.where(r > jnp.sqrt(2 * step) * jnp.sqrt(strength), r, 0.0)


def l0(
    strength: Any,
    groups: Groups | None = None,
    *,
    size_weights: bool = True,
    mask: Any = None,
) -> Penalty:
    r"""Penalise the number of non-zeros: a hard threshold, no shrinkage of what stays.

    .. math::
        R(w) = \lambda\, \#\{i : w_i \ne 0\}, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z R(z) + \frac{(z - x_i)^2}{2 s_i}
        = \begin{cases} x_i & |x_i| > \sqrt{2 s_i \lambda} \\ 0 & \text{otherwise} \end{cases}

    Not convex, and its gradient is 0 everywhere: only the prox makes it act.

    Args:
        strength: lambda, the price of a non-zero in units of loss. A non-negative number, a
            traced scalar, or a pytree prefix of the parameters with one number per leaf.
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
        >>> penalty = jaxreg.l0(0.5)
        >>> params = {"w": jnp.array([3.0, -0.9, 0.0])}
        >>> print(penalty(params).round(2))
        1.0
        >>> print(penalty.prox(params, 1.0)["w"].round(2))
        [3. 0. 0.]

    Notes:
        Every zero withstands any gradient, so that ``optimality`` sees only the non-zeros.

    References:
        Blumensath and Davies, Iterative thresholding for sparse approximations, 2008, section 3,
        https://doi.org/10.1007/s00041-008-9035-z
    """
    fields = checked_radial(strength, groups, size_weights, mask, "l0")
    return L0(**fields)
