"""The capped l1 norm."""

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
class CappedL1(RadialPenalty):
    """See :func:`capped_l1`."""

    kind: ClassVar[str] = "capped_l1"
    cap: Any

    def phi(self, r: Any, strength: Any) -> Any:
        return strength * jnp.minimum(r, self.cap)

    def slope(self, r: Any, strength: Any) -> Any:
        return jnp.where(r < self.cap, strength, 0.0)

    def slope_at_zero(self, strength: Any) -> Any:
        return strength

    def shrink(self, r: Any, step: Any, strength: Any) -> Any:
        threshold = step * strength
        # Where the objectives of the two branches are equal.
        far = threshold > 2 * self.cap
        cut = jnp.where(far, jnp.sqrt(2 * threshold) * jnp.sqrt(self.cap), self.cap + threshold / 2)
        return jnp.where(r > cut, r, jnp.maximum(r - threshold, 0.0))


def capped_l1(
    strength: Any,
    cap: Any,
    groups: Groups | None = None,
    *,
    size_weights: bool = True,
    mask: Any = None,
) -> Penalty:
    r"""Penalise ``min(|w|, cap)``: l1 for small weights, a constant for large ones.

    .. math::
        R(w) = \lambda \sum_i \min(|w_i|, c), \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z \lambda \min(|z|, c) + \frac{(z - x_i)^2}{2 s_i}
        = \begin{cases} x_i & |x_i| > c + s_i \lambda / 2 \\
        \mathrm{soft}(x_i, s_i \lambda) & \text{otherwise} \end{cases}

    (for :math:`s \lambda \le 2 c`; beyond it x from :math:`\sqrt{2 s \lambda c}` on, and 0 below).
    Not convex: where training starts decides where it ends.

    Args:
        strength: lambda, in units of loss. A non-negative number, a traced scalar, or a pytree prefix of the
            parameters with one number per leaf.
        cap: the size of weight beyond which nothing more is charged, a positive number. May be traced.
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
        >>> penalty = jaxreg.capped_l1(1.0, 2.0)
        >>> params = {"w": jnp.array([4.0, -2.0, 0.5])}
        >>> print(penalty(params).round(2))
        4.5
        >>> print(penalty.prox(params, 1.0)["w"].round(2))
        [ 4. -1.  0.]

    Notes:
        The gradient of the value at an exact zero is 0, and at the cap it is 0 too.

    References:
        Zhang, Analysis of multi-stage convex relaxation for sparse regularization, 2010, section 2,
        https://jmlr.org/papers/v11/zhang10a.html
    """
    fields = checked_radial(strength, groups, size_weights, mask, "capped_l1")
    return CappedL1(**fields, cap=check_number(cap, "cap", "capped_l1", open_low=True))
