"""The l1 norm (lasso)."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.penalties.base import Leaves, Penalty, Term, TermPenalty, checked_strength
from jaxreg.penalties.shrinkage import l1_distance, modulus, soft_threshold
from jaxreg.penalties.vanishing import quotient
from jaxreg.tree import FlatTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class L1(TermPenalty):
    """See :func:`l1`."""

    kind: ClassVar[str] = "l1"
    composes_after: ClassVar[frozenset[str]] = frozenset(
        {"l1", "elastic_net", "fused_lasso", "slope", "total_variation"}
    )

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return jnp.sum(term.strength * modulus(xs[0]))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        return [soft_threshold(xs[0], steps[0] * term.strength)]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        return [l1_distance(xs[0], grads[0], term.strength + soft[0])]

    def term_vanishing(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Any:
        return quotient(modulus(xs[0]), steps[0] * term.strength)

    def soft_of(self, flat: FlatTree) -> Leaves:
        return self.strengths_of(flat)


def l1(strength: Any, *, mask: Any = None) -> Penalty:
    r"""Penalise ``strength * sum |w|``: exact zeros, one weight at a time.

    .. math::
        R(w) = \lambda \sum_i |w_i|, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z \lambda |z| + \frac{(z - x_i)^2}{2 s_i}
        = \mathrm{sign}(x_i) \max(|x_i| - s_i \lambda, 0)

    Args:
        strength: lambda, in units of loss per unit of weight. A non-negative number, a
            traced scalar, or a pytree prefix of the parameters with one number per leaf.
        mask: which leaves are regularised: a mask of :mod:`jaxreg.masks`, a callable
            ``params -> bool pytree``, or a bool pytree. Default: all floating leaves. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox
        keeps shapes and dtypes. Complex weights shrink by modulus.

    Raises:
        TypeError: if ``strength`` is not a number or a tree of numbers.
        ValueError: if ``strength`` is negative, infinite or NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.l1(0.5)
        >>> params = {"w": jnp.array([3.0, -0.25, 0.0])}
        >>> float(penalty(params))
        1.625
        >>> print(penalty.prox(params, 1.0)["w"])
        [2.5 0.  0. ]

    Notes:
        The gradient of the value at an exact zero is 0. In a loss the value makes small
        weights but no zeros: use the prox, through :func:`jaxreg.prox_adam`,
        :func:`jaxreg.prox_sgd` or, last in a chain, :func:`jaxreg.proximal`.

    References:
        Tibshirani, Regression shrinkage and selection via the lasso, 1996,
        https://doi.org/10.1111/j.2517-6161.1996.tb02080.x. Prox: Parikh and Boyd,
        Proximal algorithms, 2014, section 6.5.2, https://doi.org/10.1561/2400000003
    """
    return L1(**checked_strength(strength, mask, "l1"))
