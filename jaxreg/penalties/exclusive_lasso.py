"""The exclusive lasso: competition inside groups."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import GroupPenalty, Penalty, Term, checked_groups, checked_strength
from jaxreg.penalties.levels import level
from jaxreg.penalties.shrinkage import half_quadratic, l1_distance, modulus, soft_threshold


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExclusiveLasso(GroupPenalty):
    """See :func:`exclusive_lasso`."""

    kind: ClassVar[str] = "exclusive_lasso"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return jnp.sum(half_quadratic(_sums([modulus(x) for x in xs], term), term.strength))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        sizes = [modulus(x) for x in xs]
        pulls = [
            jnp.broadcast_to(jnp.asarray(step * term.strength), size.shape)
            for step, size in zip(steps, sizes, strict=True)
        ]
        nothing = jnp.zeros_like(_sums(sizes, term))
        total = level(sizes, pulls, term.views, nothing, nothing + 1.0)
        return [
            # At step 0 the input itself, also to differentiation.
            jnp.where(pull > 0, soft_threshold(x, pull * view.broadcast(total)), x)
            for x, pull, view in zip(xs, pulls, term.views, strict=True)
        ]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        pull = term.strength * _sums([modulus(x) for x in xs], term)
        return [
            l1_distance(x, grad, view.broadcast(pull) + extra)
            for x, grad, extra, view in zip(xs, grads, soft, term.views, strict=True)
        ]


def _sums(sizes: Sequence[Any], term: Term) -> Any:
    return functools.reduce(jnp.add, [view.sum(size) for size, view in zip(sizes, term.views, strict=True)])


def exclusive_lasso(strength: Any, groups: Groups, *, mask: Any = None) -> Penalty:
    r"""Penalise the squared l1 norms of groups: few weights live in each group, but some do.

    .. math::
        R(w) = \frac{\lambda}{2} \sum_g \Bigl(\sum_{i \in g} |w_i|\Bigr)^2, \qquad
        \mathrm{prox}(x, s)_g = \operatorname{argmin}_z \frac{\lambda}{2}
        \Bigl(\sum_{i \in g} |z_i|\Bigr)^2 + \sum_{i \in g} \frac{(z_i - x_i)^2}{2 s_i}

    The prox is a soft threshold with a threshold per group,
    :math:`z_i = \mathrm{sign}(x_i) \max(|x_i| - s_i \lambda T_g, 0)`, where :math:`T_g` is the sum
    of the moduli of the result: the root of
    :math:`\sum_{i \in g} \max(|x_i| - s_i \lambda T, 0) = T`, which Newton's method finds exactly.

    Args:
        strength: lambda, in units of loss per squared unit of weight. A non-negative number, a
            traced scalar, or a pytree prefix of the parameters with one number per leaf. With groups
            of one element this is :func:`jaxreg.l2` at ``strength / 2``.
        groups: a structure of :mod:`jaxreg.groups`: who competes with whom. Static.
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
        >>> params = {"kernel": jnp.array([[4.0, 0.75], [-1.0, 0.75]])}
        >>> penalty = jaxreg.exclusive_lasso(1.0, jaxreg.groups.outputs())
        >>> print(penalty(params))
        13.625
        >>> print(penalty.prox(params, 1.0)["kernel"])
        [[2.   0.25]
         [0.   0.25]]

    Notes:
        The gradient of the value at an exact zero is 0. The largest weight of a group is never
        zeroed: a group shrinks, and its small weights go one by one.

    References:
        Zhou, Jin and Hoi, Exclusive lasso for multi-task feature selection, 2010,
        https://proceedings.mlr.press/v9/zhou10a.html; with this factor 1/2: Campbell and Allen,
        Within group variable selection through the exclusive lasso, 2017,
        https://doi.org/10.1214/17-EJS1317
    """
    fields = checked_strength(strength, mask, "exclusive_lasso")
    return ExclusiveLasso(**fields, **checked_groups(groups, False, "exclusive_lasso"))
