"""The hierarchical group lasso: groups within groups, of which the larger die as a whole."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.arguments import check_flag, check_number
from jaxreg.group_kinds import Groups
from jaxreg.groups import check_groups
from jaxreg.penalties.base import GroupPenalty, Leaves, Penalty, Term, TermPenalty, checked_strength
from jaxreg.penalties.shrinkage import group_norm, l1_residual, prox_groups
from jaxreg.penalties.steps import require_one_step
from jaxreg.tree import FlatTree
from jaxreg.views import Cut, UnitView, View


@dataclasses.dataclass(frozen=True)
class Level:
    """One level's groups on a tree, with their thresholds at its share of the strength."""

    penalty: GroupPenalty
    share: Any

    def terms(self, flat: FlatTree, leaves: Leaves) -> list[tuple[Term, Any]]:
        """Those of which every leaf is there, with a threshold per group."""
        present = [t for t in self.penalty.terms(flat) if all(index in leaves for index in t.indices)]
        return [(t, self.penalty.thresholds(t.strength * self.share, t)) for t in present]


REMEDY = "Give it a scalar step size (prox_sgd, fista, proximal), or take sparse_group_lasso."


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HierarchicalGroupLasso(TermPenalty):
    """See :func:`hierarchical_group_lasso`."""

    kind: ClassVar[str] = "hierarchical_group_lasso"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})
    order: ClassVar[int] = 1
    levels: tuple[Groups, ...] = dataclasses.field(metadata={"static": True})
    level_weights: tuple[Any, ...]
    size_weights: bool = dataclasses.field(metadata={"static": True})

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return tuple(self.mask.indices(flat))

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        total = 0.0
        for level in self._levels(flat):
            for term, threshold in level.terms(flat, leaves):
                total = total + jnp.sum(threshold * group_norm(term.pick(leaves), term.views))
        return total

    def prox_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        leaves = dict(leaves)
        levels = self._levels(flat)
        for level in levels:
            for term, threshold in level.terms(flat, leaves):
                own = term.pick(steps)
                if len(levels) > 1:
                    # A larger group must not turn a smaller one, only scale it.
                    for one in [own] if level is not levels[-1] else [[step] for step in own]:
                        require_one_step(
                            f"prox of {self.kind}", one, why="its levels do not compose", remedy=REMEDY
                        )
                shrunk = prox_groups(term.pick(leaves), term.views, own, threshold)
                leaves.update(zip(term.indices, shrunk, strict=True))
        return leaves

    def distance_of(self, flat: FlatTree, leaves: Leaves, grads: Leaves, soft: Leaves) -> Leaves:
        # What pulls at elements that live must cancel. A dead group withstands the sum of the balls
        # of the groups in it, and what is left over beyond that sum is its prox at step 1.
        rest, alive = dict(grads), []
        levels = self._levels(flat)
        for level in levels:
            for term, threshold in level.terms(flat, leaves):
                xs = term.pick(leaves)
                norm = group_norm(xs, term.views)
                dead = norm == 0
                pull = threshold / jnp.where(dead, 1.0, norm)
                for index, x, view in zip(term.indices, xs, term.views, strict=True):
                    rest[index] = rest[index] + jnp.where(x == 0, 0.0, view.broadcast(pull) * x)
                alive.append((term, jnp.where(dead, threshold, 0.0)))
        for index, x in leaves.items():
            rest[index] = l1_residual(x, rest[index], soft.get(index, 0.0))
        for term, threshold in alive:
            left = prox_groups(term.pick(rest), term.views, [1.0] * len(term.views), threshold)
            rest.update(zip(term.indices, left, strict=True))
        out = {}
        for term, _ in levels[0].terms(flat, leaves):
            distance = group_norm(term.pick(rest), term.views)
            for index, view in zip(term.indices, term.views, strict=True):
                out[index] = jnp.broadcast_to(view.broadcast(distance), leaves[index].shape)
        return out

    def _levels(self, flat: FlatTree) -> list[Level]:
        return flat.once(self, self._resolved)

    def _resolved(self, flat: FlatTree) -> list[Level]:
        parts = [GroupPenalty(self.strength, self.mask, groups, self.size_weights) for groups in self.levels]
        levels = [Level(part, weight) for part, weight in zip(parts, self.level_weights, strict=True)]
        for fine, coarse in itertools.pairwise(parts):
            _require_nested(fine, coarse, flat)
        return levels


def _require_nested(fine: GroupPenalty, coarse: GroupPenalty, flat: FlatTree) -> None:
    homes = {
        index: (number, view)
        for number, term in enumerate(coarse.terms(flat))
        for index, view in zip(term.indices, term.views, strict=True)
    }
    for term in fine.terms(flat):
        first = None
        for index, view in zip(term.indices, term.views, strict=True):
            number, above = homes[index]
            parents = _parents(view, above)
            if parents is None or (first is not None and not _same((number, parents), first)):
                raise ValueError(
                    "The levels of hierarchical_group_lasso must be nested, from fine to coarse. At the leaf "
                    f"'{flat.paths[index]}' of shape {view.shape} a group of {fine.groups} lies across "
                    f"groups of {coarse.groups}."
                )
            # Only groups that are joined across leaves can have parents that differ.
            first = first or (number, parents)


def _same(one: tuple[int, list[Any]], other: tuple[int, list[Any]]) -> bool:
    return one[0] == other[0] and np.array_equal(_numbered(one[1]), _numbered(other[1]))


def _numbered(parents: list[tuple[np.ndarray, int]]) -> np.ndarray:
    """The number of the coarse group of every fine group, from those along each axis."""
    numbers = np.zeros(1, int)
    for parent, count in parents:
        numbers = (numbers[:, None] * count + parent).ravel()
    return numbers


def _parents(fine: View, coarse: View) -> list[tuple[np.ndarray, int]] | None:
    """Along each axis the coarse group of each fine one, and how many there are; None if one is split.

    A view cuts each axis on its own, so that groups are nested where they are along every axis.
    """
    if isinstance(fine, UnitView) and isinstance(coarse, UnitView) and fine.axis == coarse.axis:
        labels = [(fine.owner(), coarse.owner())]
    elif isinstance(fine, UnitView) or isinstance(coarse, UnitView):
        return None
    else:
        labels = [(_labels(a), _labels(b)) for a, b in zip(fine.cuts, coarse.cuts, strict=True)]
    found = []
    for inner, outer in labels:
        parent = np.zeros(inner.max(initial=-1) + 1, int)
        parent[inner] = outer
        if not np.array_equal(parent[inner], outer):
            return None
        found.append((parent, int(outer.max(initial=-1)) + 1))
    return found


def _labels(cut: Cut) -> np.ndarray:
    """The group of each index along an axis."""
    indices = np.arange(cut.length)
    return indices % cut.size if cut.strided else indices // cut.size


def hierarchical_group_lasso(
    strength: Any,
    levels: Sequence[Groups],
    *,
    level_weights: Sequence[Any] | None = None,
    size_weights: bool = True,
    mask: Any = None,
) -> Penalty:
    r"""Penalise the norms of groups within groups: small structures die alone, large ones as a whole.

    .. math::
        R(w) = \lambda \sum_{l} \omega_l \sum_{g \in \text{level } l} \sqrt{|g|}\, \lVert w_g \rVert_2, \qquad
        \mathrm{prox}(x, s) = \operatorname{argmin}_z R(z) + \frac{\lVert z - x \rVert^2}{2 s}

    The prox is that of the group lasso of each level, one after the other from fine to coarse, which
    is exact because the levels are nested and a larger group only scales the smaller ones in it.

    Args:
        strength: lambda, in loss units. A non-negative number, a traced scalar, or a pytree
            prefix of the parameters with one number per leaf.
        levels: structures of :mod:`jaxreg.groups` from fine to coarse, each nested in the next: for a
            convolution ``[groups.kernels(), groups.outputs()]``. ``groups.blocks((1,))`` are the
            elements. Static.
        level_weights: omega, a non-negative number for each level, which may be traced. Default: ones.
        size_weights: multiply each norm by the square root of the group's size. False: weights
            of 1. Static.
        mask: which leaves are regularised, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`; its value is a scalar of at least float32, its prox keeps shapes and
        dtypes. With more than one level the prox takes one step size per leaf, not per element.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a number is negative, infinite or NaN, or there is no level or not a weight for each;
            when used, for a leaf that the groups do not fit or on which they are not nested.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> from jaxreg import groups
        >>> params = {"kernel": jnp.array([[6.0, 2.0], [8.0, 0.0], [0.6, 0.0], [0.8, 0.5]])}
        >>> levels = [groups.chunks(2, axis=0), groups.outputs()]
        >>> penalty = jaxreg.hierarchical_group_lasso(1.0, levels, size_weights=False)
        >>> print(penalty.prox(params, 1.0)["kernel"].round(3))
        [[4.8 0. ]
         [6.4 0. ]
         [0.  0. ]
         [0.  0. ]]

    Notes:
        The gradient of the value at a zero group is 0, never NaN.
        With :func:`jaxreg.l1` added, elements are one more level below.

    References:
        Jenatton, Mairal, Obozinski and Bach, Proximal methods for hierarchical sparse coding, 2011,
        theorem 1, arXiv:1009.2139. Zhao, Rocha and Yu, The composite absolute penalties family for grouped
        and hierarchical variable selection, 2009, https://doi.org/10.1214/07-AOS584
    """
    owner = "hierarchical_group_lasso"
    if isinstance(levels, Groups | str) or not isinstance(levels, Sequence) or not levels:
        raise TypeError(
            f"The 'levels' parameter of {owner} must be a sequence of structures from jaxreg.groups, from "
            f"fine to coarse. Got {levels!r}."
        )
    checked = tuple(check_groups(groups, f"levels[{n}]", owner) for n, groups in enumerate(levels))
    weights = [1.0] * len(checked) if level_weights is None else list(level_weights)
    if len(weights) != len(checked):
        raise ValueError(
            f"The 'level_weights' parameter of {owner} must have a number for each of the {len(checked)} "
            f"levels. Got {len(weights)}."
        )
    numbers = [check_number(weight, f"level_weights[{n}]", owner) for n, weight in enumerate(weights)]
    return HierarchicalGroupLasso(
        **checked_strength(strength, mask, owner),
        levels=checked,
        level_weights=tuple(float(n) if isinstance(n, int | np.integer) else n for n in numbers),
        size_weights=check_flag(size_weights, "size_weights", owner),
    )
