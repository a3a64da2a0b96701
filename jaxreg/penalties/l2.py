"""The squared l2 norm (ridge)."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.penalties.base import Leaves, Penalty, Term, TermPenalty, checked_strength
from jaxreg.penalties.shrinkage import half_quadratic, l1_distance
from jaxreg.tree import FlatTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class L2(TermPenalty):
    """See :func:`l2`."""

    kind: ClassVar[str] = "l2"

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return jnp.sum(half_quadratic(xs[0], 2 * term.strength))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        return [xs[0] / (1 + 2 * term.strength * steps[0])]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        return [l1_distance(xs[0], grads[0] + 2 * term.strength * xs[0], soft[0])]

    def curvature_of(self, flat: FlatTree) -> Leaves:
        return {index: 2 * strength for index, strength in self.strengths_of(flat).items()}

    def without_curvature(self) -> None:
        return None


def l2(strength: Any, *, mask: Any = None) -> Penalty:
    r"""Penalise ``strength * sum w^2``: smaller weights, no zeros. There is no 1/2.

    .. math::
        R(w) = \lambda \sum_i w_i^2, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z \lambda z^2 + \frac{(z - x_i)^2}{2 s_i}
        = \frac{x_i}{1 + 2 s_i \lambda}

    Args:
        strength: lambda, in units of loss per squared unit of weight. A non-negative number,
            a traced scalar, or a pytree prefix of the parameters with one number per leaf.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox
        keeps shapes and dtypes.

    Raises:
        TypeError: if ``strength`` is not a number or a tree of numbers.
        ValueError: if ``strength`` is negative, infinite or NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.l2(0.5)
        >>> params = {"w": jnp.array([2.0, -1.0])}
        >>> float(penalty(params))
        2.5
        >>> print(penalty.prox(params, 1.0)["w"])
        [ 1.  -0.5]

    Notes:
        In the loss, or through :func:`jaxreg.add_penalty` before the optimizer, this equals
        PyTorch's coupled ``weight_decay = 2 * strength``. It adds to any other penalty
        exactly, prox included.

    References:
        Hoerl and Kennard, Ridge regression, 1970, https://doi.org/10.1080/00401706.1970.10488634
    """
    return L2(**checked_strength(strength, mask, "l2"))
