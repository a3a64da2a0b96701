"""The l1/2 quasi-norm."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.quasi_norm import QuasiNorm
from jaxreg.penalties.radial import checked_radial


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LHalf(QuasiNorm):
    """See :func:`l_half`."""

    kind: ClassVar[str] = "l_half"
    power: ClassVar[float] = 0.5


def l_half(
    strength: Any,
    groups: Groups | None = None,
    *,
    size_weights: bool = True,
    mask: Any = None,
) -> Penalty:
    r"""Penalise ``strength * sum |w|^(1/2)``: sparser than l1, with less shrinkage of what stays.

    .. math::
        R(w) = \lambda \sum_i |w_i|^{1/2}, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z \lambda |z|^{1/2} + \frac{(z - x_i)^2}{2 s_i}

    The prox jumps: 0, or the larger root of its equation. Not convex: where training starts decides where
    it ends.

    Args:
        strength: lambda, in units of loss per (unit of weight)^(1/2). A non-negative number, a
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
        >>> penalty = jaxreg.l_half(1.0)
        >>> params = {"w": jnp.array([4.0, -1.0, 0.0])}
        >>> print(penalty(params).round(2))
        3.0
        >>> print(penalty.prox(params, 1.0)["w"].round(2))
        [3.74 0.   0.  ]

    Notes:
        The gradient of the value at an exact zero is 0, where the slope of the formula is infinite:
        zeros withstand any gradient.

    References:
        Xu, Chang, Xu and Zhang, L1/2 regularization: a thresholding representation theory and a fast solver,
        2012, theorem 1, https://doi.org/10.1109/TNNLS.2012.2197412
    """
    fields = checked_radial(strength, groups, size_weights, mask, "l_half")
    return LHalf(**fields)
