"""The group lasso of largest elements: l1/linf."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import GroupPenalty, Penalty, Term, checked_groups, checked_strength
from jaxreg.penalties.levels import level
from jaxreg.penalties.shrinkage import group_norm, l1_distance, modulus
from jaxreg.tree import is_complex


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupLinf(GroupPenalty):
    """See :func:`group_linf`."""

    kind: ClassVar[str] = "group_linf"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})

    def weights(self, term: Term) -> Any:
        """``|g|`` or 1, for each group of the term."""
        return sum(view.sizes() for view in term.views) if self.size_weights else 1.0

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return term.strength * jnp.sum(self.weights(term) * _largest(xs, term))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        sizes = [modulus(x) for x in xs]
        moves = [step > jnp.finfo(size.dtype).tiny for step, size in zip(steps, sizes, strict=True)]
        threshold = self.thresholds(term.strength, term)
        if jnp.ndim(steps[0]) == 0 and all(step is steps[0] for step in steps):
            amount, slopes = steps[0] * threshold, [jnp.ones_like(size) for size in sizes]
        else:
            # In units of the group's smallest step, so that no reciprocal overflows.
            pairs = zip(steps, moves, sizes, strict=True)
            slopes = [jnp.where(m, 1 / jnp.where(m, step, 1.0), jnp.zeros_like(x)) for step, m, x in pairs]
            steepest = _max(slopes, term)
            unit = jnp.where(steepest > 0, steepest, 1.0)
            slopes = [slope / view.broadcast(unit) for slope, view in zip(slopes, term.views, strict=True)]
            amount = threshold / unit
        heights = [slope * size for slope, size in zip(slopes, sizes, strict=True)]
        theta = level(heights, slopes, term.views, amount, jnp.zeros_like(amount))
        # What has step 0 stays, and nothing is cut to below it.
        kept = [jnp.where(m, 0.0, size) for m, size in zip(moves, sizes, strict=True)]
        theta = jnp.maximum(theta, _max(kept, term))
        dead = (theta == 0) & (amount > 0)
        return [
            jnp.where(m, _cut(x, size, view.broadcast(theta), view.broadcast(dead)), x)
            for x, size, m, view in zip(xs, sizes, moves, term.views, strict=True)
        ]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        threshold = self.thresholds(term.strength, term)
        nothing = jnp.zeros_like(threshold)
        largest = _largest(xs, term)
        # At a zero group, the distance to an l1 ball is the norm of what lies below a level.
        left = [jnp.maximum(jnp.abs(grad) - extra, 0.0) for grad, extra in zip(grads, soft, strict=True)]
        height = level(left, [jnp.ones_like(h) for h in left], term.views, threshold, nothing)
        pairs = list(zip(left, term.views, strict=True))
        at_zero = group_norm([jnp.minimum(h, view.broadcast(height)) for h, view in pairs], term.views)
        # Elsewhere the largest elements share the strength: a projection on a simplex. Their
        # pulls may be of any sign, the heights of a level are not: an offset comes and goes.
        top, along, across = [], [], []
        for x, grad, extra, view in zip(xs, grads, soft, term.views, strict=True):
            size = modulus(x)
            rounding = 4 * jnp.finfo(size.dtype).eps
            top.append((size >= view.broadcast(largest) * (1 - rounding)) & (size > 0))
            turned = jnp.conj(x / jnp.where(size > 0, size, 1.0)) * grad
            along.append(-jnp.real(turned) - extra)
            across.append(jnp.imag(turned) if is_complex(x) else jnp.zeros_like(size))
        offset = _max([jnp.where(t, jnp.abs(a), 0.0) for t, a in zip(top, along, strict=True)], term)
        offset = offset + threshold
        raised = [
            jnp.where(t, a + view.broadcast(offset), 0.0)
            for t, a, view in zip(top, along, term.views, strict=True)
        ]
        slopes = [t.astype(a.dtype) for t, a in zip(top, along, strict=True)]
        share = level(raised, slopes, term.views, threshold, nothing) - offset
        residuals = [
            jnp.where(t, jnp.hypot(jnp.minimum(a, view.broadcast(share)), b), l1_distance(x, grad, extra))
            for t, a, b, x, grad, extra, view in zip(
                top, along, across, xs, grads, soft, term.views, strict=True
            )
        ]
        distance = jnp.where(largest == 0, at_zero, group_norm(residuals, term.views))
        return [
            jnp.broadcast_to(view.broadcast(distance), x.shape)
            for x, view in zip(xs, term.views, strict=True)
        ]


def _max(sizes: Sequence[Any], term: Term) -> Any:
    return functools.reduce(
        jnp.maximum, [view.max(size) for size, view in zip(sizes, term.views, strict=True)]
    )


def _largest(xs: Sequence[Any], term: Term) -> Any:
    return _max([modulus(x) for x in xs], term)


def _cut(x: Any, size: Any, theta: Any, dead: Any) -> Any:
    """The x with modulus ``size`` cut down to modulus theta."""
    direction = x / jnp.where(size > 0, size, 1.0) if is_complex(x) else jnp.sign(x)
    return jnp.where(dead, 0.0, jnp.where((size >= theta) & (size > 0), direction * theta, x))


def group_linf(strength: Any, groups: Groups, *, size_weights: bool = False, mask: Any = None) -> Penalty:
    r"""Penalise ``strength * sum_g max |w_g|``: whole groups become zero, the others get equal tops.

    .. math::
        R(w) = \lambda \sum_g \max_{i \in g} |w_i|, \qquad
        \mathrm{prox}(x, s)_g = \operatorname{argmin}_z \lambda \max_{i \in g} |z_i| +
        \sum_{i \in g} \frac{(z_i - x_i)^2}{2 s_i}

    The prox cuts moduli down to a level, :math:`z_i = \mathrm{sign}(x_i) \min(|x_i|, \theta_g)`
    where :math:`s_i > 0`, with :math:`\theta_g` the root of
    :math:`\sum_{i \in g} \max(|x_i| - \theta, 0) / s_i = \lambda`, or 0 where
    :math:`\sum_{i \in g} |x_i| / s_i \le \lambda`. The root is exact, by Newton's method on a
    piecewise linear function; nothing is sorted.

    Args:
        strength: lambda, in loss units. A non-negative number, a traced scalar, or a pytree
            prefix of the parameters with one number per leaf.
        groups: a structure of :mod:`jaxreg.groups`, such as ``jaxreg.groups.outputs()``. Static.
        size_weights: multiply lambda by the size ``|g|`` of each group, so that large and small
            groups are penalised alike; a group of equal weights then costs what it does in
            :func:`jaxreg.l1` and in :func:`jaxreg.group_lasso`. Static.
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
        >>> params = {"kernel": jnp.array([[3.0, 0.1], [-2.5, 0.1]])}
        >>> penalty = jaxreg.group_linf(1.0, jaxreg.groups.outputs())
        >>> print(penalty.prox(params, 1.0)["kernel"])
        [[ 2.25  0.  ]
         [-2.25  0.  ]]

    Notes:
        The gradient of the value is ``strength`` times the sign at a group's largest element,
        shared evenly between several equal ones, and 0 at all others and at a zero group. A
        group is zeroed by the sum of its moduli, not by their norm as in the group lasso.

    References:
        Turlach, Venables and Wright, Simultaneous variable selection, 2005,
        https://doi.org/10.1198/004017005000000139. Prox by projection on an l1 ball: Bach,
        Jenatton, Mairal and Obozinski, Optimization with sparsity-inducing penalties, 2012,
        section 3.3, https://doi.org/10.1561/2200000015
    """
    fields = checked_strength(strength, mask, "group_linf")
    return GroupLinf(**fields, **checked_groups(groups, size_weights, "group_linf"))
