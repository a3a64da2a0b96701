"""Total variation along an axis, or along several."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax

from jaxreg.penalties.base import Penalty, Term, checked_strength
from jaxreg.penalties.grids import denoise_grids, grid_distances
from jaxreg.penalties.lines import LinePenalty, check_axes, denoise, distances, variation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TotalVariation(LinePenalty):
    """See :func:`total_variation`."""

    kind: ClassVar[str] = "total_variation"
    order: ClassVar[int] = -1

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return term.strength * sum(variation(xs[0], axis) for axis in self.axes)

    def line_prox(self, x: Any, step: Any, term: Term) -> Any:
        if len(self.axes) == 1:
            return denoise(x, self.axes[0], step * term.strength)
        return denoise_grids(x, self.axes, step * term.strength)

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        if len(self.axes) == 1:
            return [distances(xs[0], self.axes[0], grads[0], term.strength, soft[0])]
        return [grid_distances(xs[0], self.axes, grads[0], term.strength, soft[0])]


def total_variation(strength: Any, axis: int | Sequence[int] = -1, *, mask: Any = None) -> Penalty:
    r"""Penalise differences of neighbours along an axis, or several: piecewise constant weights.

    .. math::
        R(w) = \lambda \sum_{a} \sum_i |w_{i + e_a} - w_i|, \qquad
        \mathrm{prox}(x, s) = \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - x_i)^2}{2 s_i}

    with a sum over the axes a and all neighbours along each: several axes make the anisotropic total
    variation of an image. Along one axis the prox is exact: lines are cut at the means of their pieces,
    all lines and all pieces in parallel, until every piece is constant. Along several there is no such
    method. The exact prox of one axis after the other is applied in accelerated passes, 500 at most, until
    one moves nothing by more than 4 roundings of the largest number; then what lies within 64 roundings
    of a neighbour becomes one constant region, at its mean.

    Args:
        strength: lambda, in units of loss per unit of weight. A non-negative number, a traced
            scalar, or a pytree prefix of the parameters with one number per leaf.
        axis: the axis along which neighbours are compared, negative ones counted from the end, or a
            tuple of axes. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox keeps
        shapes and dtypes. The prox takes one step size per leaf, not per element.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``strength`` is negative, infinite or NaN, or ``axis`` names no axis or one twice;
            when used, for a leaf that is complex or lacks an axis, and for step sizes per element.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.total_variation(0.5)
        >>> params = {"w": jnp.array([1.0, 1.5, 5.0, 4.0])}
        >>> print(penalty(params))
        2.5
        >>> print(penalty.prox(params, 1.0)["w"])
        [1.5  1.5  4.25 4.25]
        >>> image = {"w": jnp.array([[1.0, 1.5, 5.0], [0.5, 1.0, 4.0]])}
        >>> print(jaxreg.total_variation(0.5, axis=(0, 1)).prox(image, 1.0)["w"])
        [[1.25 1.25 4.  ]
         [1.25 1.25 4.  ]]

    Notes:
        Elements of a piece or region come out equal to the last bit, and the prox can be differentiated:
        its derivative is the mean over each piece. Equal neighbours do not push each other, but a
        zero between unequal ones is pushed like any other number. The sum with :func:`jaxreg.l1`
        has an exact prox, too: see :func:`jaxreg.fused_lasso` for one axis. Along several axes
        the error is some roundings of the range of the leaf, at most some 100 where levels lie so
        close that they are taken for one, and :meth:`~jaxreg.Penalty.optimality` is found by the same
        passes. Images of 1000 elements take up to some 100 passes, of 10,000 up to some 350; beyond,
        the limit may be reached, and the last pass is the result. A NaN reaches the whole grid in which
        it is, and shards along any of the axes are brought together.

    References:
        Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, 1992,
        https://doi.org/10.1016/0167-2789(92)90242-F; Tibshirani, Saunders, Rosset, Zhu and Knight,
        Sparsity and smoothness via the fused lasso, 2005,
        https://doi.org/10.1111/j.1467-9868.2005.00490.x. The dynamic programme at each level:
        Johnson, A dynamic programming algorithm for the fused lasso and L0-segmentation, 2013,
        https://doi.org/10.1080/10618600.2012.681238. Several axes: Chambolle, Tan and Vaiter, Accelerated
        alternating descent methods for Dykstra-like problems, 2017,
        https://doi.org/10.1007/s10851-017-0724-6
    """
    fields = checked_strength(strength, mask, "total_variation")
    return TotalVariation(**fields, axis=check_axes(axis, "total_variation"))
