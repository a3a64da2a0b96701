"""The group lasso over several structures at once, whose groups overlap."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg.arguments import check_flag
from jaxreg.group_kinds import Groups
from jaxreg.groups import check_groups
from jaxreg.penalties.base import GroupPenalty, Leaves, Penalty, TermPenalty, checked_strength
from jaxreg.penalties.shrinkage import group_norm, l1_residual, prox_groups
from jaxreg.tree import FlatTree
from jaxreg.views import View

PASSES, ROUNDINGS, SOLVER_STEPS = 1000, 4, 200

Plan = tuple[tuple[tuple[tuple[int, ...], tuple[View, ...]], ...], ...]
"""For each structure its terms: the positions of leaves in a list, and their views."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OverlappingGroupLasso(TermPenalty):
    """See :func:`overlapping_group_lasso`."""

    kind: ClassVar[str] = "overlapping_group_lasso"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})
    order: ClassVar[int] = 1
    structures: tuple[Groups, ...] = dataclasses.field(metadata={"static": True})
    size_weights: bool = dataclasses.field(metadata={"static": True})

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return tuple(self.mask.indices(flat))

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        plan, thresholds = self._plan(flat, leaves)
        norms = _norms(plan, list(leaves.values()))
        pairs = zip(jax.tree.leaves(thresholds), jax.tree.leaves(norms), strict=True)
        return sum((jnp.sum(threshold * norm) for threshold, norm in pairs), 0.0)

    def prox_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        plan, thresholds = self._plan(flat, leaves)
        out = _prox(plan, list(leaves.values()), [steps[index] for index in leaves], thresholds)
        return dict(zip(leaves, out, strict=True))

    def distance_of(self, flat: FlatTree, leaves: Leaves, grads: Leaves, soft: Leaves) -> Leaves:
        # What pulls at elements that live must cancel. Dead groups withstand the sum of their
        # balls, and what is left over beyond that sum is its prox at step 1.
        plan, thresholds = self._plan(flat, leaves)
        xs, rest = list(leaves.values()), [grads[index] for index in leaves]
        norms = _norms(plan, xs)
        pulls = _spread(plan, thresholds, norms, xs)
        extra = [soft.get(index, 0.0) for index in leaves]
        parts = zip(xs, rest, pulls, extra, strict=True)
        rest = [l1_residual(x, slope + pull, strength) for x, slope, pull, strength in parts]
        dead = [
            [jnp.where(n == 0, t, 0.0) for t, n in zip(ts, ns, strict=True)]
            for ts, ns in zip(thresholds, norms, strict=True)
        ]
        left = _prox(plan, rest, [jnp.ones((), x.real.dtype) for x in xs], dead)
        return dict(zip(leaves, map(jnp.abs, left), strict=True))

    def _plan(self, flat: FlatTree, leaves: Leaves) -> tuple[Plan, list[list[Any]]]:
        position = {index: number for number, index in enumerate(leaves)}
        plan, thresholds = [], []
        for part in flat.once(self, self._parts):
            present = [term for term in part.terms(flat) if all(index in leaves for index in term.indices)]
            plan.append(tuple((tuple(position[i] for i in t.indices), t.views) for t in present))
            thresholds.append([part.thresholds(term.strength, term) for term in present])
        return tuple(plan), thresholds

    def _parts(self, flat: FlatTree) -> list[GroupPenalty]:
        del flat
        return [
            GroupPenalty(self.strength, self.mask, groups, self.size_weights) for groups in self.structures
        ]


def _norms(plan: Plan, xs: Sequence[Any]) -> list[list[Any]]:
    return [[group_norm([xs[p] for p in places], views) for places, views in terms] for terms in plan]


def _spread(plan: Plan, thresholds: Any, norms: Any, xs: Sequence[Any]) -> list[Any]:
    """``sum_g t_g x / ||z_g||`` for each element, where the norms are those of living groups."""
    pulls = [jnp.zeros_like(x) for x in xs]
    for terms, ts, ns in zip(plan, thresholds, norms, strict=True):
        for (places, views), t, n in zip(terms, ts, ns, strict=True):
            weight = jnp.where(n == 0, 0.0, t / jnp.where(n == 0, 1.0, n))
            for place, view in zip(places, views, strict=True):
                pulls[place] = pulls[place] + view.broadcast(weight) * xs[place]
    return pulls


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)  # an eager loop would be compiled anew at each call
def _prox(plan: Plan, xs: list[Any], steps: list[Any], thresholds: list[list[Any]]) -> list[Any]:
    """Dykstra's algorithm: the prox of one structure after the other, each first given back what it took."""

    def unsettled(carry: Any) -> Any:
        count, _, _, _, moving = carry
        return moving & (count < PASSES)

    def cycle(carry: Any) -> Any:
        count, zs, taken, _, _ = carry
        before, kept, gone = zs, [], [jnp.zeros(x.shape, bool) for x in xs]
        for terms, ts, mine in zip(plan, thresholds, taken, strict=True):
            whole, zs = [z + p for z, p in zip(zs, mine, strict=True)], list(zs)
            for (places, views), t in zip(terms, ts, strict=True):
                shrunk = prox_groups([whole[p] for p in places], views, [steps[p] for p in places], t)
                for place, z in zip(places, shrunk, strict=True):
                    zs[place] = z
            kept.append([u - z for u, z in zip(whole, zs, strict=True)])
            gone = [g | (z == 0) for g, z in zip(gone, zs, strict=True)]
        # Each element in its own unit: steps, and weights with them, may lie decades apart.
        moved = [
            jnp.any(jnp.abs(z - b) > ROUNDINGS * jnp.finfo(z.dtype).eps * jnp.abs(x))
            for z, b, x in zip(zs, before, xs, strict=True)
        ]
        return count + 1, zs, kept, gone, functools.reduce(operator.or_, moved)

    nothing = [jnp.where(x == 0, x, 0.0) for x in xs]  # of the data, which shard_map can tell
    flags = [(x != x) & (x == x) for x in xs]
    moving = functools.reduce(operator.or_, [jnp.any((x == x) | (x != x)) for x in xs])
    start = 0, list(xs), [nothing for _ in plan], flags, moving
    _, zs, _, gone, _ = lax.while_loop(unsettled, cycle, start)
    # Zeros of any structure are zeros, to the last bit.
    return [jnp.where(g, 0.0, z) for g, z in zip(gone, zs, strict=True)]


@_prox.defjvp
def _prox_jvp(plan: Plan, primals: Any, tangents: Any) -> tuple[Any, Any]:
    # The implicit function theorem on z + s h = x with h = sum_g t_g z / ||z_g||, where elements of
    # dead groups stay. By the push-through identity (1 + S H)^-1 = 1 - r (1 + r H r)^-1 r H with
    # r = sqrt(S), the system to solve is symmetric and positive, and steps may be 0.
    (xs, steps, thresholds), (dxs, dsteps, dthresholds) = primals, tangents
    zs = _prox(plan, xs, steps, thresholds)
    norms = _norms(plan, zs)
    living = [jnp.ones(z.shape, bool) for z in zs]
    for terms, ts, ns in zip(plan, thresholds, norms, strict=True):
        for (places, views), t, n in zip(terms, ts, ns, strict=True):
            for place, view in zip(places, views, strict=True):
                dead = view.broadcast((n == 0) & (t > 0)) & (steps[place] > 0)
                living[place] = living[place] & ~dead

    def alive(vs: list[Any]) -> list[Any]:
        return [jnp.where(mask, v, 0.0) for mask, v in zip(living, vs, strict=True)]

    def bend(vs: list[Any]) -> list[Any]:
        """The second derivative of the penalty at z, times v."""
        out = _spread(plan, thresholds, norms, vs)
        for terms, ts, ns in zip(plan, thresholds, norms, strict=True):
            for (places, views), t, n in zip(terms, ts, ns, strict=True):
                safe = jnp.where(n == 0, 1.0, n)
                units = [zs[p] / view.broadcast(safe) for p, view in zip(places, views, strict=True)]
                inner = [
                    view.sum(_product(u, vs[p])) for p, u, view in zip(places, units, views, strict=True)
                ]
                along = sum(inner[1:], inner[0])
                weight = jnp.where(n == 0, 0.0, t * along / safe)
                for p, u, view in zip(places, units, views, strict=True):
                    out[p] = out[p] - view.broadcast(weight) * u
        return alive(out)

    roots = [jnp.sqrt(jnp.where(step > 0, step, 1.0)) * (step > 0) for step in steps]

    def scaled(vs: list[Any]) -> list[Any]:
        return [root * v for root, v in zip(roots, vs, strict=True)]

    def system(vs: list[Any]) -> list[Any]:
        return [v + b for v, b in zip(vs, scaled(bend(scaled(vs))), strict=True)]

    h, dh = _spread(plan, thresholds, norms, zs), _spread(plan, dthresholds, norms, zs)
    parts = zip(dxs, steps, dsteps, h, dh, strict=True)
    right = alive([dx - ds * pull - s * dpull for dx, s, ds, pull, dpull in parts])
    # Not jax.scipy's, whose start is a tracer of the right side, and then cannot be transposed.
    solved = lax.custom_linear_solve(system, scaled(bend(right)), _conjugate_gradients, symmetric=True)
    return zs, [r - v for r, v in zip(right, scaled(solved), strict=True)]


def _conjugate_gradients(system: Any, right: list[Any]) -> list[Any]:
    """The x with ``system(x) = right``, where the system is symmetric and positive definite."""
    goal = (4 * jnp.finfo(right[0].dtype).eps) ** 2 * _dot(right, right)

    def unsettled(carry: Any) -> Any:
        count, _, _, _, size = carry
        return (size > goal) & (count < SOLVER_STEPS)

    def advance(carry: Any) -> Any:
        count, xs, rest, way, size = carry
        bent = system(way)
        length = size / _dot(way, bent)
        xs = [x + length * v for x, v in zip(xs, way, strict=True)]
        rest = [r - length * b for r, b in zip(rest, bent, strict=True)]
        new = _dot(rest, rest)
        return count + 1, xs, rest, [r + new / size * v for r, v in zip(rest, way, strict=True)], new

    start = 0, [0 * r for r in right], right, right, _dot(right, right)
    return lax.while_loop(unsettled, advance, start)[1]


def _dot(left: list[Any], right: list[Any]) -> Any:
    return sum(jnp.sum(_product(a, b)) for a, b in zip(left, right, strict=True))


def _product(a: Any, b: Any) -> Any:
    """Of complex numbers as vectors of the plane."""
    return jnp.real(jnp.conj(a) * b)


def overlapping_group_lasso(
    strength: Any, structures: Sequence[Groups], *, size_weights: bool = True, mask: Any = None
) -> Penalty:
    r"""Penalise the group norms of several structures at once, such as rows and columns.

    .. math::
        R(w) = \lambda \sum_{k} \sum_{g \in \text{structure } k} \sqrt{|g|}\, \lVert w_g \rVert_2, \qquad
        \mathrm{prox}(x, s) = \operatorname{argmin}_z R(z) + \sum_i \frac{(z_i - x_i)^2}{2 s_i}

    The prox has no closed form. It is solved by Dykstra's algorithm (block coordinate ascent
    in the dual), one structure's exact prox after the other, until a pass moves no element by more than
    4 of its roundings, 1000 passes at most. An element is zero when any of its groups is.

    Args:
        strength: lambda, in loss units. A non-negative number, a traced scalar, or a pytree
            prefix of the parameters with one number per leaf.
        structures: structures of :mod:`jaxreg.groups`, whose groups may overlap. Static. Where each
            is nested in the next, :func:`jaxreg.hierarchical_group_lasso` is exact and quicker.
        size_weights: multiply each norm by the square root of the group's size. False: weights
            of 1. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox keeps shapes and
        dtypes, and takes one step size per element too.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``strength`` is negative, infinite or NaN; when used, for a leaf that the groups
            do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> from jaxreg import groups
        >>> params = {"kernel": jnp.array([[6.0, 0.5], [8.0, 0.5], [0.3, 0.2]])}
        >>> both = [groups.outputs(), groups.inputs()]
        >>> penalty = jaxreg.overlapping_group_lasso(1.0, both, size_weights=False)
        >>> print(penalty.prox(params, 1.0)["kernel"].round(2))
        [[4.42 0.  ]
         [6.19 0.  ]
         [0.   0.  ]]

    Notes:
        The gradient of the value at a zero group is 0, never NaN. :func:`jaxreg.l1` may be added, prox
        included. The prox is differentiated
        implicitly, through a linear system, not through its passes. With one step size some 20 passes
        reach rounding. With a step per element more are needed the more the steps differ: over 3 decades
        what is left in the optimality condition is below 1e-5 of the strength, also where the limit of passes
        is reached; over 6 decades and more, groups that are about to die may be far off.

    References:
        Jenatton, Audibert and Bach, Structured variable selection with sparsity-inducing norms, 2011,
        arXiv:0904.3523. Prox: Boyle and Dykstra, A method for finding projections onto the
        intersection of convex sets in Hilbert spaces, 1986, https://doi.org/10.1007/978-1-4613-9940-7_3
    """
    owner = "overlapping_group_lasso"
    if isinstance(structures, Groups | str) or not isinstance(structures, Sequence) or not structures:
        raise TypeError(
            f"The 'structures' parameter of {owner} must be a sequence of structures from jaxreg.groups. "
            f"Got {structures!r}."
        )
    checked = tuple(check_groups(one, f"structures[{n}]", owner) for n, one in enumerate(structures))
    fields = checked_strength(strength, mask, owner)
    return OverlappingGroupLasso(
        **fields, structures=checked, size_weights=check_flag(size_weights, "size_weights", owner)
    )
