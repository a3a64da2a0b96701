"""The sparse fused lasso: few pieces, and most of them zero."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.arguments import check_number
from jaxreg.penalties.base import Penalty, Term, checked_strength, mixed
from jaxreg.penalties.lines import LinePenalty, check_axis, denoise, distances, variation
from jaxreg.penalties.shrinkage import modulus, soft_threshold


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedLasso(LinePenalty):
    """See :func:`fused_lasso`."""

    kind: ClassVar[str] = "fused_lasso"
    order: ClassVar[int] = -1
    l1_ratio: Any

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        absolute, varied = mixed(term.strength, self.l1_ratio, xs[0])
        return jnp.sum(absolute * modulus(xs[0])) + varied * variation(xs[0], self.axes[0])

    def line_prox(self, x: Any, step: Any, term: Term) -> Any:
        absolute, varied = mixed(term.strength, self.l1_ratio, x)
        return soft_threshold(denoise(x, self.axes[0], step * varied), step * absolute)

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        absolute, varied = mixed(term.strength, self.l1_ratio, xs[0])
        return [distances(xs[0], self.axes[0], grads[0], varied, soft[0] + absolute)]


def fused_lasso(strength: Any, l1_ratio: Any, axis: int = -1, *, mask: Any = None) -> Penalty:
    r"""Penalise a mix of ``|w|`` and differences of neighbours: few pieces, most of them zero.

    .. math::
        R(w) = \lambda \Bigl(\rho \sum_i |w_i| + (1 - \rho) \sum_i |w_{i+1} - w_i|\Bigr), \qquad
        \mathrm{prox}(x, s) = \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - x_i)^2}{2 s}

    The prox is that of l1 at :math:`\lambda \rho` after that of the total variation at
    :math:`\lambda (1 - \rho)`, which is exact.

    Args:
        strength: lambda, in units of loss per unit of weight. A non-negative number, a traced
            scalar, or a pytree prefix of the parameters with one number per leaf.
        l1_ratio: rho in [0, 1]; 1 is :func:`jaxreg.l1`, 0 is :func:`jaxreg.total_variation`.
        axis: the axis along which neighbours are compared, negative ones counted from the end. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox keeps
        shapes and dtypes. The prox takes one step size per leaf, not per element.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``strength`` is negative, infinite or NaN, ``l1_ratio`` is outside [0, 1];
            when used, for a leaf that is complex or lacks the axis, and for step sizes per element.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.fused_lasso(1.0, 0.5)
        >>> params = {"w": jnp.array([0.2, -0.1, 5.0, 4.0])}
        >>> print(penalty.prox(params, 1.0)["w"])
        [0.   0.   3.75 3.75]

    Notes:
        Zeros are exact, and so are pieces. A zero between unequal neighbours is pushed by the
        difference's gradient, not by that of ``|w|``.

    References:
        Tibshirani, Saunders, Rosset, Zhu and Knight, Sparsity and smoothness via the fused lasso,
        2005, https://doi.org/10.1111/j.1467-9868.2005.00490.x. Prox: Friedman, Hastie, Hoefling
        and Tibshirani, Pathwise coordinate optimization, 2007, proposition 1,
        https://doi.org/10.1214/07-AOAS131
    """
    fields = checked_strength(strength, mask, "fused_lasso")
    fields["axis"] = check_axis(axis, "fused_lasso")
    return FusedLasso(**fields, l1_ratio=check_number(l1_ratio, "l1_ratio", "fused_lasso", high=1.0))
