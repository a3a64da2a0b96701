"""Total variation along an axis: the fused lasso."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax

from jaxreg.penalties.base import Penalty, Term, checked_strength
from jaxreg.penalties.lines import LinePenalty, check_axis, denoise, distances, variation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TotalVariation(LinePenalty):
    """See :func:`total_variation`."""

    kind: ClassVar[str] = "total_variation"
    order: ClassVar[int] = -1

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return term.strength * variation(xs[0], self.axis)

    def line_prox(self, x: Any, step: Any, term: Term) -> Any:
        return denoise(x, self.axis, step * term.strength)

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        return [distances(xs[0], self.axis, grads[0], term.strength, soft[0])]


def total_variation(strength: Any, axis: int = -1, *, mask: Any = None) -> Penalty:
    r"""Penalise differences of neighbours along an axis: piecewise constant weights.

    .. math::
        R(w) = \lambda \sum_i |w_{i+1} - w_i|, \qquad
        \mathrm{prox}(x, s) = \operatorname{argmin}_z \lambda \sum_i |z_{i+1} - z_i| +
        \sum_i \frac{(z_i - x_i)^2}{2 s}

    with a sum over all lines of the leaf along the axis. The prox is exact: lines are cut at the
    means of their pieces, all lines and all pieces in parallel, until every piece is constant.

    Args:
        strength: lambda, in units of loss per unit of weight. A non-negative number, a traced
            scalar, or a pytree prefix of the parameters with one number per leaf.
        axis: the axis along which neighbours are compared, negative ones counted from the end. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox keeps
        shapes and dtypes. The prox takes one step size per leaf, not per element.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``strength`` is negative, infinite or NaN; when used, for a leaf that is
            complex or lacks the axis, and for step sizes per element.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.total_variation(0.5)
        >>> params = {"w": jnp.array([1.0, 1.5, 5.0, 4.0])}
        >>> print(penalty(params))
        2.5
        >>> print(penalty.prox(params, 1.0)["w"])
        [1.5  1.5  4.25 4.25]

    Notes:
        Elements of a piece come out equal to the last bit, and the prox can be differentiated:
        its derivative is the mean over each piece. Equal neighbours do not push each other, but a
        zero between unequal ones is pushed like any other number. The sum with :func:`jaxreg.l1`
        has an exact prox, too: see :func:`jaxreg.fused_lasso`.

    References:
        Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, 1992,
        https://doi.org/10.1016/0167-2789(92)90242-F; Tibshirani, Saunders, Rosset, Zhu and Knight,
        Sparsity and smoothness via the fused lasso, 2005,
        https://doi.org/10.1111/j.1467-9868.2005.00490.x. The dynamic programme at each level:
        Johnson, A dynamic programming algorithm for the fused lasso and L0-segmentation, 2013,
        https://doi.org/10.1080/10618600.2012.681238
    """
    fields = checked_strength(strength, mask, "total_variation")
    return TotalVariation(**fields, axis=check_axis(axis, "total_variation"))
