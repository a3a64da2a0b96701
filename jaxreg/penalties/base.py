"""What every penalty is: a frozen pytree with a value, a prox and an optimality."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreg.arguments import check_flag, check_number, check_number_tree, refuse_step_count
from jaxreg.group_kinds import Groups
from jaxreg.groups import check_groups
from jaxreg.masks import as_mask
from jaxreg.penalties.selection import Units
from jaxreg.penalties.shrinkage import group_norm
from jaxreg.tree import (
    FlatTree,
    PyTree,
    as_real,
    cast,
    flatten,
    is_container,
    is_inexact,
    real_dtype,
    spread,
    upcast,
    widened,
)
from jaxreg.views import View

Leaves = dict[int, Any]
"""Leaf index to array: the leaves that take part."""


@dataclasses.dataclass(frozen=True)
class Term:
    """A piece of a penalty that stands alone: a leaf, or leaves whose groups are joined."""

    indices: tuple[int, ...]
    views: tuple[View, ...]
    strength: Any

    def pick(self, leaves: Mapping[int, Any]) -> list[Any]:
        return [leaves[index] for index in self.indices]


class Penalty:
    """A function R of a parameter pytree, with its proximal operator.

    Call it for the value; see :meth:`prox`, :meth:`optimality`, :meth:`scale`
    and ``+``. Every number in it is a leaf of a pytree, so that it passes
    through ``jax.jit``, ``jax.vmap`` and ``jax.grad``; masks and groups are
    static and compare by value, so that rebuilding a penalty never recompiles.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.l1(0.5) + jaxreg.l2(0.5)
        >>> isinstance(penalty, jaxreg.Penalty)
        True
        >>> print(penalty.prox({"w": jnp.array([1.0, -0.2])}, 1.0)["w"])
        [0.25 0.  ]
    """

    kind: ClassVar[str]
    composes_after: ClassVar[frozenset[str]] = frozenset()
    """Kinds whose prox may be applied before this one's, the composition being the prox of the sum."""
    order: ClassVar[int] = 0
    """In a sum, lower ones are applied first."""
    settles: ClassVar[bool] = False
    """Whether, in a sum, what comes later sees its distances in place of gradients and l1 strengths."""

    def __call__(self, params: PyTree) -> jax.Array:
        """The value R(params): a scalar of at least float32."""
        refuse_step_count(params, f"A penalty ({self.kind})")
        flat = flatten(params)
        leaves = {index: upcast(flat.leaves[index]) for index in self.touched(flat)}
        return self.total_of(flat, leaves)

    def prox(self, params: PyTree, step_size: PyTree) -> PyTree:
        """``argmin_z R(z) + sum_i |z_i - x_i|^2 / (2 step_i)`` at ``x = params``.

        Args:
            params: a parameter pytree.
            step_size: a non-negative scalar, or a pytree like ``params`` (or a prefix of
                it) of scalars and arrays of the leaf's shape: one step per element. An
                element with step 0 keeps its value.

        Returns:
            A pytree like ``params``: same structure, shapes and dtypes. Leaves that the
            mask leaves out, ``None`` and leaves that are not floating are the same objects.
            Narrow floats are computed in float32 and rounded once.
        """
        flat = flatten(params)
        leaves = {index: upcast(flat.leaves[index]) for index in self.touched(flat)}
        shrunk = self.prox_of(flat, leaves, spread_steps(step_size, flat, leaves))
        out = list(flat.leaves)
        for index, leaf in shrunk.items():
            out[index] = cast(leaf, jnp.result_type(flat.leaves[index]))
        return flat.rebuild(out)

    def optimality(self, params: PyTree, grads: PyTree) -> PyTree:
        """How far each element is from satisfying ``0 in grads + dR(params)``.

        Args:
            params: a parameter pytree.
            grads: a pytree like ``params``: gradients of the loss without the penalty
                (for complex parameters in optax's convention, conjugated).

        Returns:
            A pytree like ``params`` of non-negative reals: the distance of ``-grads`` to the
            subdifferential of R, per element; for groups the Euclidean distance of the
            group, given to each of its elements; ``|grads|`` where R does not reach; 0 for
            leaves without a gradient. Its maximum is 0 at a minimiser of a convex
            ``loss + R``, and only there.
        """
        flat = flatten(params)
        slopes = {i: upcast(g) for i, g in enumerate(flat.align(grads, "grads")) if is_inexact(g)}
        leaves = {index: upcast(flat.leaves[index]) for index in self.touched(flat) if index in slopes}
        # What is not trained, integers and leaves without a gradient, is where it should be.
        out = [jnp.zeros(np.shape(leaf)) if hasattr(leaf, "dtype") else leaf for leaf in flat.leaves]
        for index, slope in slopes.items():
            out[index] = jnp.abs(slope)
        for index, distance in self.distance_of(flat, leaves, slopes, {}).items():
            out[index] = jnp.broadcast_to(distance, leaves[index].shape)
        return flat.rebuild(out)

    def scale(self, factor: Any) -> "Penalty":
        """The same penalty with its strength times a non-negative ``factor``, which may be traced."""
        raise NotImplementedError(f"{type(self).__name__} has no strength to scale.")  # the subclass's duty

    def __add__(self, other: "Penalty") -> "Penalty":
        from jaxreg.penalties.composition import add

        return add(self, other)

    def __radd__(self, other: Any) -> "Penalty":
        # sum([...]) starts from 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    # What follows works on flattened trees, in the precision to compute in, and
    # is what transforms, sums and subclasses use.

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        """Indices of the leaves that this penalty reaches."""
        raise NotImplementedError(f"{type(self).__name__} must define touched().")  # the subclass's duty

    def total_of(self, flat: FlatTree, leaves: Leaves) -> jax.Array:
        """The value as a scalar array of at least float32, also where no leaf takes part."""
        dtype = jnp.result_type(jnp.float32, *(real_dtype(leaf) for leaf in leaves.values()))
        return jnp.asarray(self.value_of(flat, leaves), dtype)

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define value_of().")  # the subclass's duty

    def prox_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        raise NotImplementedError(f"{type(self).__name__} must define prox_of().")  # the subclass's duty

    def distance_of(self, flat: FlatTree, leaves: Leaves, grads: Leaves, soft: Leaves) -> Leaves:
        """Distances for touched leaves; ``soft`` adds a strength times sum |w| per leaf."""
        raise NotImplementedError(f"{type(self).__name__} must define distance_of().")  # the subclass's duty

    def vanishing_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> list[tuple[Units, Any]]:
        """The units of this penalty, and for each the smallest factor on the strength that makes it zero.

        Infinite where none does.
        """
        raise self.never_vanishing()

    def never_vanishing(self) -> ValueError:
        """What to raise where no strength is known that makes a given number of units zero."""
        return ValueError(
            f"{self.kind} has no strength that makes a given share of the weights zero. Take l1, "
            "elastic_net, group_lasso, sparse_group_lasso, or a function of one radius such as mcp or l0."
        )

    def curvature_of(self, flat: FlatTree) -> Leaves:
        """Per leaf the c of a part ``c/2 sum |w|^2``, which a sum of penalties treats apart."""
        del flat
        return {}

    def pull_of(self, flat: FlatTree) -> Leaves:
        """Per leaf the b of ``c/2 sum |w|^2 - <b, w>``, where the part with curvature is not centred at 0."""
        del flat
        return {}

    def without_curvature(self) -> "Penalty | None":
        return self

    def soft_of(self, flat: FlatTree) -> Leaves:
        """Per leaf the strength of a part ``strength * sum |w|`` that may come before a group's."""
        del flat
        return {}


@dataclasses.dataclass(frozen=True)
class TermPenalty(Penalty):
    """A penalty that is a sum over terms: a strength, a mask, and for each term a formula."""

    strength: Any
    mask: Any = dataclasses.field(metadata={"static": True})

    def terms(self, flat: FlatTree) -> list[Term]:
        """The terms of a tree, made once for each ``flat``."""
        return flat.once(self, self._terms)

    def _terms(self, flat: FlatTree) -> list[Term]:
        selected = self.mask.indices(flat)
        strengths = spread(self.strength, flat, "strength", selected)
        return [Term((i,), (), as_real(strengths[i], flat.leaves[i])) for i in selected]

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define term_value().")  # the subclass's duty

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        raise NotImplementedError(f"{type(self).__name__} must define term_prox().")  # the subclass's duty

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        raise NotImplementedError(
            f"{type(self).__name__} must define term_distance()."
        )  # the subclass's duty

    def scale(self, factor: Any) -> Self:
        check_number(factor, "factor", "scale")
        return dataclasses.replace(
            self, strength=jax.tree.map(lambda s: widened(s) * widened(factor), self.strength)
        )

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return tuple(index for term in self.terms(flat) for index in term.indices)

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        return sum((self.term_value(term.pick(leaves), term) for term in self._present(flat, leaves)), 0.0)

    def prox_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        out = dict(leaves)
        for term in self._present(flat, leaves):
            out.update(
                zip(term.indices, self.term_prox(term.pick(leaves), term.pick(steps), term), strict=True)
            )
        return out

    def distance_of(self, flat: FlatTree, leaves: Leaves, grads: Leaves, soft: Leaves) -> Leaves:
        out = {}
        for term in self._present(flat, leaves):
            extra = [soft.get(index, 0.0) for index in term.indices]
            distances = self.term_distance(term.pick(leaves), term.pick(grads), extra, term)
            out.update(zip(term.indices, distances, strict=True))
        return out

    def vanishing_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> list[tuple[Units, Any]]:
        return [
            (
                Units(term.indices, term.views, _number(term, leaves)),
                lax.stop_gradient(self.term_vanishing(term.pick(leaves), term.pick(steps), term)),
            )
            for term in self._present(flat, leaves)
        ]

    def term_vanishing(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Any:
        """Per unit the smallest factor on the strength that makes it zero."""
        raise self.never_vanishing()

    def strengths_of(self, flat: FlatTree) -> Leaves:
        return {index: term.strength for term in self.terms(flat) for index in term.indices}

    def _present(self, flat: FlatTree, leaves: Leaves) -> list[Term]:
        return [term for term in self.terms(flat) if all(index in leaves for index in term.indices)]


@dataclasses.dataclass(frozen=True)
class GroupPenalty(TermPenalty):
    """A penalty on the norms of groups; a term is a cluster of leaves that share their groups."""

    order: ClassVar[int] = 1
    groups: Groups = dataclasses.field(metadata={"static": True})
    size_weights: bool = dataclasses.field(metadata={"static": True})

    def _terms(self, flat: FlatTree) -> list[Term]:
        selected = self.mask.indices(flat)
        strengths = spread(self.strength, flat, "strength", selected)
        terms = []
        for cluster in self.groups.resolve(flat, selected):
            indices, views = zip(*cluster, strict=True)
            first = indices[0]
            terms.append(Term(indices, views, as_real(strengths[first], flat.leaves[first])))
        return terms

    def weights(self, term: Term) -> Any:
        """``sqrt(|g|)`` or 1, for each group of the term; weakly typed."""
        if not self.size_weights:
            return 1.0
        sizes = sum(view.sizes() for view in term.views)
        return sizes**0.5 if isinstance(sizes, float) else jnp.sqrt(sizes)

    def thresholds(self, strength: Any, term: Term) -> Any:
        """Strength times weight as an array with one entry per group."""
        view = term.views[0]
        per_group = tuple(1 if axis in view.inside else n for axis, n in enumerate(view.split))
        # asarray first: broadcast_to alone would make a Python number strongly typed.
        return jnp.broadcast_to(jnp.asarray(strength * self.weights(term)), per_group)

    def weighted_norms(self, xs: Sequence[Any], term: Term) -> Any:
        return jnp.sum(self.weights(term) * group_norm(xs, term.views))


def _number(term: Term, leaves: Leaves) -> int:
    """How many units a term has: groups, or the elements of its leaf."""
    return term.views[0].n_groups if term.views else leaves[term.indices[0]].size


def spread_steps(step_size: PyTree, flat: FlatTree, leaves: Leaves) -> Leaves:
    """One step per leaf, in the precision of the leaf: a scalar or an array that broadcasts to it."""
    if not is_container(step_size) and jnp.ndim(step_size) == 0:
        check_number(step_size, "step_size", "prox")
    found = spread(step_size, flat, "step_size", list(leaves))
    steps = {}
    for index, leaf in leaves.items():
        if is_container(step_size) and jnp.ndim(found[index]) == 0:
            check_number(found[index], f"step_size[{flat.paths[index]}]", "prox")
        step = as_real(found[index], leaf)
        if not _broadcasts(jnp.shape(step), leaf.shape):
            raise ValueError(
                f"The 'step_size' parameter of prox must broadcast to the leaf '{flat.paths[index]}' of "
                f"shape {leaf.shape}. Got shape {jnp.shape(step)}."
            )
        steps[index] = jnp.broadcast_to(step, leaf.shape) if jnp.ndim(step) else step
    return steps


def mixed(strength: Any, l1_ratio: Any, like: Any) -> tuple[Any, Any]:
    """The strength of the l1 part of a mix, and that of its other part."""
    ratio = as_real(l1_ratio, like)
    return strength * ratio, strength * (1 - ratio)


def checked_strength(strength: Any, mask: Any, owner: str) -> dict[str, Any]:
    """The fields that all penalties share, checked."""
    return {"strength": check_number_tree(strength, "strength", owner), "mask": as_mask(mask)}


def checked_groups(groups: Any, size_weights: bool, owner: str) -> dict[str, Any]:
    """The fields that group penalties share, checked."""
    return {
        "groups": check_groups(groups, "groups", owner),
        "size_weights": check_flag(size_weights, "size_weights", owner),
    }


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in pairs)
