"""The k largest weights: a bound on how many are not zero."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxreg.group_kinds import Groups
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Leaves, Penalty
from jaxreg.penalties.constraint import Constraint, checked_structure
from jaxreg.penalties.selection import MOST, Units, costs, largest, units_of, with_only
from jaxreg.penalties.shrinkage import group_norm, l1_distance
from jaxreg.tree import FlatTree, is_inexact, upcast

SCOPES = ("global", "leaf")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopK(Constraint):
    """See :func:`top_k`."""

    kind: ClassVar[str] = "top_k"
    # What it costs to lose an element after these is still its square over twice the step.
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net", "non_negative"})
    order: ClassVar[int] = 3
    k: Any
    scope: str = dataclasses.field(metadata={"static": True})
    groups: Groups | None = dataclasses.field(metadata={"static": True})

    def units(self, flat: FlatTree) -> list[Units]:
        """The units of a tree, made once for each ``flat``."""
        return flat.once(self, lambda flat: units_of(flat, self.mask.indices(flat), self.groups))

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return tuple(index for units in self.units(flat) for index in units.indices)

    def project(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        present = self._present(flat, leaves)
        kept = largest(costs(present, leaves, steps), self._budgets(present), apart=self._apart)
        return with_only(present, kept, leaves)

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        present = self._present(flat, leaves)
        missing = [jnp.any(jnp.isnan(leaves[index])) for units in present for index in units.indices]
        outside = jnp.any(self._alive(present, leaves) > self._budgets(present))
        return jnp.where(outside | jnp.any(jnp.array(missing)), jnp.inf, 0.0)

    def distance_of(self, flat: FlatTree, leaves: Leaves, grads: Leaves, soft: Leaves) -> Leaves:
        present = self._present(flat, leaves)
        alive, budgets = self._alive(present, leaves), self._budgets(present)
        out = {}
        for position, units in enumerate(present):
            own = position if self._apart else 0
            residuals = [
                l1_distance(leaves[index], grads[index], soft.get(index, 0.0)) for index in units.indices
            ]
            residual = group_norm(residuals, units.views) if units.views else residuals[0]
            # A zero may not move where k others are in use, and must be at rest where one is free.
            fixed = ~units.alive(units.pick(leaves)) & (alive[own] == budgets[own])
            distance = jnp.where(alive[own] > budgets[own], jnp.inf, jnp.where(fixed, 0.0, residual))
            for index, spread in zip(units.indices, units.spread(distance), strict=True):
                out[index] = jnp.broadcast_to(spread, leaves[index].shape)
        return out

    @property
    def _apart(self) -> bool:
        return self.scope == "leaf"

    def _present(self, flat: FlatTree, leaves: Leaves) -> list[Units]:
        return [units for units in self.units(flat) if all(index in leaves for index in units.indices)]

    def _alive(self, present: list[Units], leaves: Leaves) -> Any:
        counts = [jnp.sum(units.alive(units.pick(leaves)), dtype=jnp.uint32) for units in present]
        alive = jnp.array(counts, jnp.uint32)
        return alive if self._apart else jnp.sum(alive, keepdims=True, dtype=jnp.uint32)

    def _budgets(self, present: list[Units]) -> Any:
        """How many units may be in use: of each leaf, or of all together."""
        numbers = [units.number for units in present]
        totals = np.array([min(n, MOST) for n in (numbers if self._apart else [sum(numbers)])], np.uint32)
        k = jax.lax.stop_gradient(upcast(self.k) if is_inexact(self.k) else jnp.asarray(self.k))
        if is_inexact(k):
            k = jnp.maximum(jnp.round(k * totals.astype(k.dtype)), 1.0)
        return jnp.minimum(jnp.maximum(k, 0).astype(jnp.uint32), totals)


def top_k(
    k_or_fraction: Any, *, scope: str = "global", groups: Groups | None = None, mask: Any = None
) -> Penalty:
    r"""Keep the k largest weights and set all others to exactly 0.

    .. math::
        R(w) = \begin{cases} 0 & \lVert w \rVert_0 \le k \\ \infty & \text{otherwise} \end{cases}, \qquad
        \mathrm{prox}(x, s) =
        \operatorname{argmin}_{\lVert z \rVert_0 \le k} \sum_i \frac{(z_i - x_i)^2}{2 s_i}

    which keeps the k elements with the largest :math:`x_i^2 / s_i` as they are: with one step size those
    with the largest :math:`|x_i|`. With groups :math:`\lVert w \rVert_0` counts the groups that are not
    zero, and the k with the largest :math:`\sum_{i \in g} x_i^2 / s_i` are kept.

    Args:
        k_or_fraction: how many to keep. A whole number of at least 1 is a count, and a number in (0, 1]
            with a decimal point a fraction of all elements (groups), rounded to the nearest whole number
            and at least 1: ``1`` keeps one, ``1.0`` all. May be traced, and an array without axes: its
            dtype, integer or floating, says which of the two it is.
        scope: ``"global"``: k over all leaves of the mask together; ``"leaf"``: k in each of them. Static.
        groups: a structure of :mod:`jaxreg.groups`: what is kept or zeroed as a whole. Default: elements.
            Static.
        mask: which leaves take part, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside and infinity outside, its prox the projection.
        Complex weights count by modulus.

    Raises:
        TypeError: if ``k_or_fraction`` is not a number or an argument is of the wrong kind.
        ValueError: if a number is out of its range; when used, for a leaf that the groups do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> params = {"a": jnp.array([3.0, -0.5]), "b": jnp.array([1.0, 1.0])}
        >>> kept = jaxreg.top_k(2).prox(params, 0.1)
        >>> print(kept["a"], kept["b"])
        [3. 0.] [1. 0.]
        >>> kept = jaxreg.top_k(0.5, scope="leaf").prox(params, 0.1)
        >>> print(kept["a"], kept["b"])
        [3. 0.] [1. 0.]

    Notes:
        Exactly k are kept where there are as many that are not zero. Of equals the first in the order of
        the tree, within a leaf in row-major order, is kept. What has step 0 keeps its value, costs
        infinitely much to lose, and so is counted first. NaN is kept.

        The value has gradient 0: use the prox, last in a chain, through :func:`jaxreg.proximal`, or in a
        proximal optimizer: ``prox_sgd`` is then iterative hard thresholding. Not convex:
        :meth:`~jaxreg.Penalty.optimality` is 0 where Beck and Eldar's basic feasibility holds, a necessary
        condition: the gradient is 0 on what is kept, and everywhere where fewer than k are in use.
        Exact after :func:`jaxreg.l1`, :func:`jaxreg.elastic_net` and :func:`jaxreg.non_negative`.

        A global k compares leaves by the size of their weights, so that whole layers may die:
        ``scope="leaf"`` and :func:`jaxreg.protected` prevent that. Groups of unequal size are compared
        by their whole norm. The threshold is found by counting, in a dozen passes over the data that
        neither sort nor copy; on sharded parameters only counts are exchanged.

    References:
        Blumensath and Davies, Iterative hard thresholding for compressed sensing, 2009,
        https://doi.org/10.1016/j.acha.2009.04.002. Beck and Eldar, Sparsity constrained nonlinear
        optimization: optimality conditions and algorithms, 2013, https://doi.org/10.1137/120869778
    """
    if scope not in SCOPES:
        raise ValueError(f"The 'scope' parameter of top_k must be 'global' or 'leaf'. Got {scope!r}.")
    return TopK(as_mask(mask), _checked_k(k_or_fraction), scope, checked_structure(groups, "top_k"))


def _checked_k(k: Any) -> Any:
    bound = (
        "The 'k_or_fraction' parameter of top_k must be a whole number of at least 1, or a fraction in (0, 1]"
    )
    dtype = getattr(k, "dtype", np.asarray(k).dtype if type(k) in (int, float) else None)
    if dtype is None or not (jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating)):
        raise TypeError(f"{bound}. Got {k!r} of type {type(k).__name__}.")
    if np.shape(k):
        raise ValueError(f"{bound}. Got an array of shape {np.shape(k)}.")
    if isinstance(k, Tracer):
        return k
    whole = jnp.issubdtype(dtype, np.integer)
    if not (k >= 1 if whole else 0 < k <= 1):
        raise ValueError(f"{bound}. Got {k}.")
    return k
