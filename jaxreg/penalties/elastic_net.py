"""The elastic net, in scikit-learn's convention."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.arguments import check_number
from jaxreg.penalties.base import Leaves, Penalty, Term, TermPenalty, checked_strength, mixed
from jaxreg.penalties.shrinkage import half_quadratic, l1_distance, modulus, soft_threshold
from jaxreg.penalties.vanishing import quotient
from jaxreg.tree import FlatTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ElasticNet(TermPenalty):
    """See :func:`elastic_net`."""

    kind: ClassVar[str] = "elastic_net"
    composes_after: ClassVar[frozenset[str]] = frozenset(
        {"l1", "elastic_net", "fused_lasso", "slope", "total_variation"}
    )
    l1_ratio: Any

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        absolute, curvature = mixed(term.strength, self.l1_ratio, xs[0])
        return jnp.sum(absolute * modulus(xs[0]) + half_quadratic(xs[0], curvature))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        absolute, curvature = mixed(term.strength, self.l1_ratio, xs[0])
        return [soft_threshold(xs[0], steps[0] * absolute) / (1 + steps[0] * curvature)]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        absolute, curvature = mixed(term.strength, self.l1_ratio, xs[0])
        return [l1_distance(xs[0], grads[0] + curvature * xs[0], absolute + soft[0])]

    def term_vanishing(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Any:
        absolute, _ = mixed(term.strength, self.l1_ratio, xs[0])
        return quotient(modulus(xs[0]), steps[0] * absolute)

    def curvature_of(self, flat: FlatTree) -> Leaves:
        return {i: mixed(s, self.l1_ratio, flat.leaves[i])[1] for i, s in self.strengths_of(flat).items()}

    def without_curvature(self) -> Penalty:
        strength = jax.tree.map(lambda s: s * self.l1_ratio, self.strength)
        return dataclasses.replace(self, strength=strength, l1_ratio=1.0)

    def soft_of(self, flat: FlatTree) -> Leaves:
        return {i: mixed(s, self.l1_ratio, flat.leaves[i])[0] for i, s in self.strengths_of(flat).items()}


def elastic_net(strength: Any, l1_ratio: Any, *, mask: Any = None) -> Penalty:
    r"""Penalise a mix of ``|w|`` and ``w^2 / 2``: zeros, and correlated weights kept together.

    .. math::
        R(w) = \lambda \sum_i \rho |w_i| + \frac{1 - \rho}{2} w_i^2, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_z R(z) + \frac{(z - x_i)^2}{2 s_i}
        = \frac{\mathrm{sign}(x_i) \max(|x_i| - s_i \lambda \rho, 0)}{1 + s_i \lambda (1 - \rho)}

    Args:
        strength: lambda (scikit-learn's ``alpha``), in loss units. A non-negative number, a
            traced scalar, or a pytree prefix of the parameters with one number per leaf.
        l1_ratio: rho in [0, 1]; 1 is :func:`jaxreg.l1`, 0 is ``jaxreg.l2(strength / 2)``.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox
        keeps shapes and dtypes.

    Raises:
        TypeError: if an argument is not a number (or, for ``strength``, a tree of numbers).
        ValueError: if ``strength`` is negative, infinite or NaN, or ``l1_ratio`` is outside [0, 1].

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.elastic_net(1.0, 0.5)
        >>> params = {"w": jnp.array([2.0, -0.25])}
        >>> float(penalty(params))
        2.140625
        >>> print(penalty.prox(params, 1.0)["w"])
        [1. 0.]

    Notes:
        The gradient of the value at an exact zero is 0.

    References:
        Zou and Hastie, Regularization and variable selection via the elastic net, 2005,
        https://doi.org/10.1111/j.1467-9868.2005.00503.x. Prox: Parikh and Boyd, Proximal
        algorithms, 2014, section 6.5.3, https://doi.org/10.1561/2400000003
    """
    shared = checked_strength(strength, mask, "elastic_net")
    return ElasticNet(**shared, l1_ratio=check_number(l1_ratio, "l1_ratio", "elastic_net", high=1.0))
