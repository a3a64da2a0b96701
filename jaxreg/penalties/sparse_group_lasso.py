"""The sparse group lasso: zero groups, and zeros inside the groups that live."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.arguments import check_number
from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import GroupPenalty, Penalty, Term, checked_groups, checked_strength, mixed
from jaxreg.penalties.shrinkage import group_distance, group_norm, modulus, prox_groups, soft_threshold
from jaxreg.penalties.vanishing import quotient, smallest_factor


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseGroupLasso(GroupPenalty):
    """See :func:`sparse_group_lasso`."""

    kind: ClassVar[str] = "sparse_group_lasso"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})
    l1_ratio: Any

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        absolute, grouped = mixed(term.strength, self.l1_ratio, xs[0])
        return sum(jnp.sum(absolute * modulus(x)) for x in xs) + grouped * self.weighted_norms(xs, term)

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        absolute, grouped = mixed(term.strength, self.l1_ratio, xs[0])
        soft = [soft_threshold(x, step * absolute) for x, step in zip(xs, steps, strict=True)]
        return prox_groups(soft, term.views, steps, self.thresholds(grouped, term))

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        absolute, grouped = mixed(term.strength, self.l1_ratio, xs[0])
        soft = [extra + absolute for extra in soft]
        return group_distance(xs, grads, term.views, soft, self.thresholds(grouped, term))

    def term_vanishing(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Any:
        absolute, grouped = mixed(term.strength, self.l1_ratio, xs[0])
        threshold = self.thresholds(grouped, term)
        slopes = [quotient(modulus(x), step) for x, step in zip(xs, steps, strict=True)]

        def vanishes(factor: Any) -> Any:
            left = [
                jnp.maximum(slope - view.broadcast(factor) * absolute, 0.0)
                for slope, view in zip(slopes, term.views, strict=True)
            ]
            return group_norm(left, term.views) <= factor * threshold

        return smallest_factor(vanishes, group_norm(slopes, term.views))


def sparse_group_lasso(
    strength: Any, groups: Groups, l1_ratio: Any, *, size_weights: bool = True, mask: Any = None
) -> Penalty:
    r"""Penalise a mix of ``|w|`` and group norms: zero groups, and zeros inside the others.

    .. math::
        R(w) = \lambda \Bigl(\rho \sum_i |w_i| + (1 - \rho) \sum_g \sqrt{|g|}\, \lVert w_g \rVert_2\Bigr),
        \qquad \mathrm{prox}(x, s) = \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - x_i)^2}{2 s_i}

    The prox is that of the group lasso at :math:`\lambda (1 - \rho)` after that of l1 at
    :math:`\lambda \rho`, which is exact, also with one step size per element.

    Args:
        strength: lambda, in loss units. A non-negative number, a traced scalar, or a pytree
            prefix of the parameters with one number per leaf.
        groups: a structure of :mod:`jaxreg.groups`. Static.
        l1_ratio: rho in [0, 1]; 1 is :func:`jaxreg.l1`, 0 is :func:`jaxreg.group_lasso`.
        size_weights: weights of ``sqrt(|g|)``, or 1 where False. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox
        keeps shapes and dtypes.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``strength`` is negative, infinite or NaN, ``l1_ratio`` is outside
            [0, 1]; when used, for a leaf that the groups do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[4.0, 0.3], [0.3, 0.3]])}
        >>> penalty = jaxreg.sparse_group_lasso(1.0, jaxreg.groups.outputs(), 0.5, size_weights=False)
        >>> print(penalty.prox(params, 1.0)["kernel"])
        [[3. 0.]
         [0. 0.]]

    Notes:
        The gradient of the value at a zero element is that of its group's norm, 0; at a
        zero group it is 0.

    References:
        Simon, Friedman, Hastie and Tibshirani, A sparse-group lasso, 2013, equation 2,
        https://doi.org/10.1080/10618600.2012.681250
    """
    fields = checked_strength(strength, mask, "sparse_group_lasso")
    fields |= checked_groups(groups, size_weights, "sparse_group_lasso")
    return SparseGroupLasso(
        **fields, l1_ratio=check_number(l1_ratio, "l1_ratio", "sparse_group_lasso", high=1.0)
    )
