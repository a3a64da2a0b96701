"""The group lasso."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax

from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import GroupPenalty, Penalty, Term, checked_groups, checked_strength
from jaxreg.penalties.shrinkage import group_distance, group_norm, prox_groups
from jaxreg.penalties.steps import one_step
from jaxreg.penalties.vanishing import quotient


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupLasso(GroupPenalty):
    """See :func:`group_lasso`."""

    kind: ClassVar[str] = "group_lasso"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return term.strength * self.weighted_norms(xs, term)

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        return prox_groups(xs, term.views, steps, self.thresholds(term.strength, term))

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        return group_distance(xs, grads, term.views, soft, self.thresholds(term.strength, term))

    def term_vanishing(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Any:
        threshold = self.thresholds(term.strength, term)
        if one_step(steps):
            return quotient(group_norm(xs, term.views), steps[0] * threshold)
        return quotient(group_norm(list(map(quotient, xs, steps)), term.views), threshold)


def group_lasso(strength: Any, groups: Groups, *, size_weights: bool = True, mask: Any = None) -> Penalty:
    r"""Penalise ``strength * sum_g sqrt(|g|) ||w_g||_2``: whole groups become exactly zero.

    .. math::
        R(w) = \lambda \sum_g \sqrt{|g|}\, \lVert w_g \rVert_2, \qquad
        \mathrm{prox}(x, s)_g = \operatorname{argmin}_z R(z) + \sum_{i \in g} \frac{(z_i - x_i)^2}{2 s_i}

    With one step size s for the group, and :math:`t = \lambda \sqrt{|g|}`,
    :math:`\mathrm{prox}(x, s)_g = x_g \max(1 - s t / \lVert x_g \rVert_2, 0)`. With a step per
    element it is 0 where :math:`\sum_i (x_i / s_i)^2 \le t^2`, else
    :math:`z_i = x_i \theta / (\theta + t s_i)` with :math:`\theta` the root of
    :math:`\sum_i (x_i / (\theta + t s_i))^2 = 1`, found by a fixed number of Newton steps.

    Args:
        strength: lambda, in loss units. A non-negative number, a traced scalar, or a pytree
            prefix of the parameters with one number per leaf.
        groups: a structure of :mod:`jaxreg.groups`, such as ``jaxreg.groups.outputs()``. Static.
        size_weights: multiply each norm by the square root of the group's size, so that
            large and small groups are penalised alike. False: weights of 1. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static. A bias has no
            output axis: keep it out with ``jaxreg.masks.weights`` or ``jaxreg.masks.min_ndim(2)``.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox
        keeps shapes and dtypes.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``strength`` is negative, infinite or NaN; when used, for a leaf that
            the groups do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"kernel": jnp.array([[3.0, 0.1], [4.0, 0.1]])}
        >>> penalty = jaxreg.group_lasso(1.0, jaxreg.groups.outputs(), size_weights=False)
        >>> print(penalty.prox(params, 1.0)["kernel"])
        [[2.4 0. ]
         [3.2 0. ]]

    Notes:
        The gradient of the value at a zero group is 0, never NaN. Size weights make a small
        group cheap: in a network whose weights start with a scale of 1 / sqrt(fan in) all
        units have about the same norm, and ``size_weights=False`` treats first and later
        layers alike.

    References:
        Yuan and Lin, Model selection and estimation in regression with grouped variables,
        2006, equation 2.1, https://doi.org/10.1111/j.1467-9868.2005.00532.x. Prox: Parikh and
        Boyd, Proximal algorithms, 2014, section 6.5.4, https://doi.org/10.1561/2400000003
    """
    fields = checked_strength(strength, mask, "group_lasso")
    return GroupLasso(**fields, **checked_groups(groups, size_weights, "group_lasso"))
