"""The log-sum penalty."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg.arguments import check_number
from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.radial import RadialPenalty, checked_radial

FAR = 1e4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogSum(RadialPenalty):
    """See :func:`log_sum`."""

    kind: ClassVar[str] = "log_sum"
    epsilon: Any

    def phi(self, r: Any, strength: Any) -> Any:
        return strength * jnp.log1p(r / self.epsilon)

    def slope(self, r: Any, strength: Any) -> Any:
        return strength / (r + self.epsilon)

    def slope_at_zero(self, strength: Any) -> Any:
        return strength / self.epsilon

    def shrink(self, r: Any, step: Any, strength: Any) -> Any:
        wide = r + self.epsilon
        # Where the pull is small two terms of a series are exact; the roots have no derivative at 0.
        near = wide < FAR * lax.stop_gradient(jnp.sqrt(step) * jnp.sqrt(strength))
        pull = jnp.sqrt(jnp.where(near, step, 1.0)) * jnp.sqrt(jnp.where(near, strength, 1.0))
        # The larger root of (z - r) (z + epsilon) + step strength = 0, without cancellation or overflow.
        real = wide > 2 * pull
        pull = jnp.where(real, pull, 0.0)
        spread = jnp.sqrt(wide - 2 * pull) * jnp.sqrt(wide + 2 * pull)
        above = (r - self.epsilon) / 2 + spread / 2
        inverse = 1 / self.epsilon
        small = jnp.minimum(r * inverse, 1.0)
        below = 2 * (r - pull * (pull * inverse)) / (1 - small + spread * inverse)
        root = jnp.where(r > self.epsilon, above, below)
        gain = root * ((r - root / 2) / step) - self.phi(jnp.maximum(root, 0.0), strength)
        alive = real & (root > 0) & (gain > 0)
        first_order = jnp.where(near, 0.0, step) * self.slope(jnp.where(near, 1.0, r), strength)
        shrunk = jnp.where(alive, jnp.minimum(root, r), 0.0)
        return jnp.where(near, shrunk, jnp.maximum(r - first_order, 0.0))


def log_sum(
    strength: Any,
    epsilon: Any,
    groups: Groups | None = None,
    *,
    size_weights: bool = True,
    mask: Any = None,
) -> Penalty:
    r"""Penalise ``log(1 + |w| / epsilon)``: closer to counting non-zeros than l1 is.

    .. math::
        R(w) = \lambda \sum_i \log\Bigl(1 + \frac{|w_i|}{\epsilon}\Bigr), \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z \lambda \log\Bigl(1 + \frac{|z|}{\epsilon}\Bigr)
        + \frac{(z - x_i)^2}{2 s_i}

    The prox is the larger root of a quadratic equation, or 0 where that is lower. Not
    convex: where training starts decides where it ends.

    Args:
        strength: lambda, in units of loss. A non-negative number, a traced scalar, or a pytree prefix of the
            parameters with one number per leaf.
        epsilon: the size of weight at which the penalty bends, a positive number. May be traced.
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
        >>> penalty = jaxreg.log_sum(1.0, 1.0)
        >>> params = {"w": jnp.array([3.0, -1.0, 0.0])}
        >>> print(penalty(params).round(2))
        2.08
        >>> print(penalty.prox(params, 1.0)["w"].round(2))
        [2.73 0.   0.  ]

    Notes:
        The gradient of the value at an exact zero is 0.

    References:
        Candes, Wakin and Boyd, Enhancing sparsity by reweighted l1 minimization, 2008, equation 7,
        arXiv:0711.1612
    """
    fields = checked_radial(strength, groups, size_weights, mask, "log_sum")
    return LogSum(**fields, epsilon=check_number(epsilon, "epsilon", "log_sum", open_low=True))
