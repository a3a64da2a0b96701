"""What constraints share: a set to stay in, as a penalty whose prox is the projection."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxreg.arguments import check_number
from jaxreg.group_kinds import Groups
from jaxreg.groups import check_groups
from jaxreg.penalties.base import Leaves, Penalty, Term
from jaxreg.penalties.projections import clip_norms, norm_distance, project_balls
from jaxreg.penalties.steps import require_one_step
from jaxreg.tree import FlatTree, as_real, is_complex, real_dtype, spread
from jaxreg.views import Cut, View

ULPS = 16
"""How many units of rounding count as inside: of the precision to compute in, and a few of the leaf's."""

REMEDY = (
    "A projection does not depend on the length of a common step: put it last in the chain, as in "
    "optax.chain(optax.adam(learning_rate), jaxreg.proximal(constraint, 1.0)), or take prox_sgd."
)


@dataclasses.dataclass(frozen=True)
class Constraint(Penalty):
    """The indicator of a set: 0 inside, infinity outside, without a gradient.

    A subclass gives the projection. A point is inside where the projection moves no element
    by more than rounding.
    """

    order: ClassVar[int] = 2
    mask: Any = dataclasses.field(metadata={"static": True})

    def project(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        """``argmin_z sum_i |z_i - x_i|^2 / (2 s_i)`` over the set; elements with step 0 may move."""
        raise NotImplementedError(f"{type(self).__name__} must define project().")  # the subclass's duty

    def slack(self, flat: FlatTree, index: int, leaf: Any) -> Any:
        """How far the projection moves elements of a leaf by rounding alone."""
        return rounding(flat.leaves[index]) * jnp.abs(leaf)

    def scale(self, factor: Any) -> Self:
        """The same constraint: infinity times a factor is infinity."""
        check_number(factor, "factor", "scale")
        return self

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return tuple(self.mask.indices(flat))

    def outside(self, flat: FlatTree, leaves: Leaves) -> Leaves:
        """Per leaf, which elements the projection moves by more than rounding; NaN is outside."""
        leaves = {index: lax.stop_gradient(leaf) for index, leaf in leaves.items()}
        nearest = self.project(flat, leaves, dict.fromkeys(leaves, 1.0))
        return {
            index: ~(jnp.abs(leaf - nearest[index]) <= self.slack(flat, index, leaf))
            for index, leaf in leaves.items()
        }

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        moved: Any = False
        for elements in self.outside(flat, leaves).values():
            moved |= jnp.any(elements)
        return jnp.where(moved, jnp.inf, 0.0)

    def prox_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        return {
            index: jnp.where(steps[index] > 0, nearest, leaves[index])
            for index, nearest in self.project(flat, leaves, steps).items()
        }


@dataclasses.dataclass(frozen=True)
class Piece(Term):
    """A leaf, or leaves with joined groups; ``strength`` holds the numbers that ``bounds`` names."""

    rounding: float


@dataclasses.dataclass(frozen=True)
class TermConstraint(Constraint):
    """A constraint on each leaf, line or group by itself, with numbers that may differ by leaf."""

    bounds: ClassVar[tuple[str, ...]] = ()
    """Fields that are a number or a pytree prefix of numbers."""
    real_only: ClassVar[bool] = False

    def structure(self) -> Groups | None:
        """What belongs together in a leaf; None for constraints on elements, or on whole leaves."""
        return None

    def term_project(self, xs: Sequence[Any], steps: Sequence[Any], term: Piece) -> Sequence[Any]:
        raise NotImplementedError(f"{type(self).__name__} must define term_project().")  # the subclass's duty

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Piece
    ) -> Sequence[Any]:
        """Distance of ``-grads`` to the normal cone, plus ``soft`` times the subdifferential of l1."""
        raise NotImplementedError(
            f"{type(self).__name__} must define term_distance()."
        )  # the subclass's duty

    def terms(self, flat: FlatTree) -> list[Piece]:
        """The terms of a tree, made once for each ``flat``."""
        return flat.once(self, self._terms)

    def _terms(self, flat: FlatTree) -> list[Piece]:
        selected = self.mask.indices(flat)
        found = {name: spread(getattr(self, name), flat, name, selected) for name in self.bounds}
        structure = self.structure()
        if structure is None:
            clusters: Any = [[(index, None)] for index in selected]
        else:
            clusters = structure.resolve(flat, selected)
        terms = []
        for cluster in clusters:
            indices, views = zip(*cluster, strict=True)
            for index in indices:
                self.check_leaf(flat, index)
            first = indices[0]
            numbers = tuple(as_real(found[name][first], flat.leaves[first]) for name in self.bounds)
            slack = max(rounding(flat.leaves[index]) for index in indices)
            terms.append(Piece(indices, () if structure is None else views, numbers, slack))
        return terms

    def check_leaf(self, flat: FlatTree, index: int) -> None:
        """Refuse a leaf that the set does not fit."""
        if self.real_only and is_complex(flat.leaves[index]):
            raise ValueError(
                f"The constraint {self.kind} is one on real numbers. The leaf '{flat.paths[index]}' is "
                "complex: take it out of the mask."
            )

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return tuple(index for term in self.terms(flat) for index in term.indices)

    def project(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        out = dict(leaves)
        for term in self._present(flat, leaves):
            points = self.term_project(term.pick(leaves), term.pick(steps), term)
            out.update(zip(term.indices, points, strict=True))
        return out

    def distance_of(self, flat: FlatTree, leaves: Leaves, grads: Leaves, soft: Leaves) -> Leaves:
        outside = self.outside(flat, leaves)
        out = {}
        for term in self._present(flat, leaves):
            extra = [soft.get(index, 0.0) for index in term.indices]
            distances = self.term_distance(term.pick(leaves), term.pick(grads), extra, term)
            for index, distance in zip(term.indices, distances, strict=True):
                # There is no subgradient outside.
                out[index] = jnp.where(outside[index], jnp.inf, distance)
        return out

    def _present(self, flat: FlatTree, leaves: Leaves) -> list[Piece]:
        return [term for term in self.terms(flat) if all(index in leaves for index in term.indices)]


@dataclasses.dataclass(frozen=True)
class NormConstraint(TermConstraint):
    """``low <= ||w_g|| <= high`` in each group; without groups an element is a group of its own."""

    groups: Groups | None = dataclasses.field(metadata={"static": True})

    def interval(self, term: Piece) -> tuple[Any, Any]:
        """The least and the largest norm; None where there is none."""
        raise NotImplementedError(f"{type(self).__name__} must define interval().")  # the subclass's duty

    def structure(self) -> Groups | None:
        return self.groups

    def term_project(self, xs: Sequence[Any], steps: Sequence[Any], term: Piece) -> Sequence[Any]:
        low, high = self.interval(term)
        if low is None:
            return project_balls(xs, term.views, steps, high)
        if term.views:
            require_one_step(f"projection of {self.kind} over groups", steps, remedy=REMEDY)
        return clip_norms(xs, term.views, low, high)

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Piece
    ) -> Sequence[Any]:
        low, high = self.interval(term)
        return norm_distance(xs, grads, term.views, soft, low, high, term.rounding)


@dataclasses.dataclass(frozen=True)
class Lines(Groups):
    """The vectors along some axes of a leaf; all axes where there are none given."""

    axis: tuple[int, ...] | None

    def view(self, index: int, flat: FlatTree) -> View:
        shape = np.shape(flat.leaves[index])
        along = range(len(shape)) if self.axis is None else self.axis
        if any(not -len(shape) <= axis < len(shape) for axis in along):
            raise ValueError(
                f"The axis {self.axis} is not in the leaf '{flat.paths[index]}' of shape {shape}. Keep it "
                "out with a mask, such as mask=jaxreg.masks.weights."
            )
        inside = {axis % len(shape) for axis in along}
        if len(inside) < len(along):
            raise ValueError(
                f"The axes {self.axis} name an axis of the leaf '{flat.paths[index]}' of shape {shape} twice."
            )
        return View(tuple(Cut(n, max(n, 1) if axis in inside else 1) for axis, n in enumerate(shape)))


@dataclasses.dataclass(frozen=True)
class LineConstraint(TermConstraint):
    """A constraint on the vectors along some axes of each leaf."""

    bounds: ClassVar[tuple[str, ...]] = ("radius",)
    radius: Any
    axis: tuple[int, ...] | None = dataclasses.field(metadata={"static": True})

    def structure(self) -> Groups:
        return Lines(self.axis)

    def slack(self, flat: FlatTree, index: int, leaf: Any) -> Any:
        view = self.structure().view(index, flat)
        return rounding(flat.leaves[index]) * view.broadcast(view.max(jnp.abs(leaf)))


def rounding(leaf: Any) -> float:
    """The relative error of a leaf that was computed in at least float32 and stored in its own dtype."""
    stored, computed = (float(jnp.finfo(dtype).eps) for dtype in (jnp.result_type(leaf), real_dtype(leaf)))
    return 2 * stored + ULPS * computed


def checked_structure(groups: Any, owner: str) -> Groups | None:
    return None if groups is None else check_groups(groups, "groups", owner)


def checked_axis(axis: Any, owner: str) -> tuple[int, ...] | None:
    """The axes as a tuple, None for all of them."""
    if axis is None:
        return None
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    if not axes or any(isinstance(a, bool) or not isinstance(a, int | np.integer) for a in axes):
        raise TypeError(
            f"The 'axis' parameter of {owner} must be an integer, a tuple of integers or None. Got {axis!r}."
        )
    return tuple(int(a) for a in axes)


def check_ordered(low: Any, high: Any, owner: str) -> None:
    """Refuse concrete numbers with ``low > high``; trees of them where they have the same structure."""
    lows, highs = jax.tree.leaves(low), jax.tree.leaves(high)
    if jax.tree.structure(low) != jax.tree.structure(high):
        lows, highs = (lows, highs * len(lows)) if len(highs) == 1 else (lows * len(highs), highs)
        if len(lows) != len(highs):
            return
    for least, most in zip(lows, highs, strict=True):
        if not isinstance(least, Tracer) and not isinstance(most, Tracer) and least > most:
            raise ValueError(
                f"The 'low' parameter of {owner} must not be above 'high'. "
                f"Got {float(least)} and {float(most)}."
            )
