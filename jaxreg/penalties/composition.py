"""Sums of penalties, with a prox wherever one is exact."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.penalties.base import Leaves, Penalty
from jaxreg.penalties.selection import Units
from jaxreg.tree import FlatTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Penalty):
    """The sum of penalties, as ``penalty_a + penalty_b`` makes it.

    Its value always exists. Its prox exists where at every leaf the parts compose
    exactly: a part ``c/2 |w|^2`` (l2, the elastic net's) is taken out first, by
    ``prox_{s (R + c/2 |.|^2)}(x) = prox_{s/(1 + s c) R}(x / (1 + s c))``, with ``x + s b`` for x
    where that part is ``c/2 |w|^2 - <b, w>`` (l2_sp); what is left
    must be a single penalty, or l1 parts and then a group penalty.

    References:
        Yu, On decomposing the proximal map, 2013, theorem 1 and corollary 4, arXiv:1305.0020
    """

    kind: ClassVar[str] = "sum"
    parts: tuple[Penalty, ...]

    def scale(self, factor: Any) -> Penalty:
        return Sum(tuple(part.scale(factor) for part in self.parts))

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return tuple(sorted({index for part in self.parts for index in part.touched(flat)}))

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        return sum((part.value_of(flat, _own(part, flat, leaves)) for part in self.parts), 0.0)

    def prox_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        leaves, steps = dict(leaves), dict(steps)
        pulls = self.pull_of(flat)
        for index, curvature in self.curvature_of(flat).items():
            if index in leaves:
                room = 1 + steps[index] * curvature
                leaves[index] = leaves[index] / room
                steps[index] = steps[index] / room
                if index in pulls:
                    leaves[index] = leaves[index] + steps[index] * pulls[index]
        for part in self._in_order(flat):
            leaves.update(part.prox_of(flat, _own(part, flat, leaves), steps))
        return leaves

    def distance_of(self, flat: FlatTree, leaves: Leaves, grads: Leaves, soft: Leaves) -> Leaves:
        grads, soft = dict(grads), dict(soft)
        pulls = self.pull_of(flat)
        for index, curvature in self.curvature_of(flat).items():
            if index in leaves:
                grads[index] = grads[index] + (curvature * leaves[index] - pulls.get(index, 0.0))
        out = {index: jnp.abs(grads[index]) for index in leaves}
        # What comes before l1 in a prox comes after it here, where it has to know of l1's strength.
        for part in sorted(self._in_order(flat), key=lambda part: part.order < 0):
            distances = part.distance_of(flat, _own(part, flat, leaves), grads, soft)
            out.update(distances)
            if part.settles:
                grads.update(distances)
                soft.update(dict.fromkeys(distances, 0.0))
            for index, strength in part.soft_of(flat).items():
                soft[index] = soft.get(index, 0.0) + strength
        return out

    def vanishing_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> list[tuple[Units, Any]]:
        rest = self._in_order(flat)
        if len(rest) != 1 or self.pull_of(flat):
            raise self.never_vanishing()
        # A part c/2 |w|^2 shrinks weight and step alike, so that it makes no difference to which are zero.
        return rest[0].vanishing_of(flat, _own(rest[0], flat, leaves), steps)

    def curvature_of(self, flat: FlatTree) -> Leaves:
        return _added(part.curvature_of(flat) for part in self.parts)

    def pull_of(self, flat: FlatTree) -> Leaves:
        return _added(part.pull_of(flat) for part in self.parts)

    def _in_order(self, flat: FlatTree) -> list[Penalty]:
        """The parts without curvature, each allowed after all earlier ones that share a leaf with it."""
        rest = [part for part in (p.without_curvature() for p in self.parts) if part is not None]
        rest.sort(key=lambda part: part.order)
        reach = [set(part.touched(flat)) for part in rest]
        for later, part in enumerate(rest):
            for earlier in range(later):
                shared = reach[earlier] & reach[later]
                if shared and rest[earlier].kind not in part.composes_after:
                    raise ValueError(
                        f"The sum of {rest[earlier].kind} and {part.kind} has no exact prox or optimality "
                        f"where both reach the same leaf, '{flat.paths[min(shared)]}'. Give them masks that "
                        "do not overlap, or use the value in the loss."
                    )
        return rest


def add(left: Penalty, right: Any) -> Penalty:
    """``left + right``, with nested sums made flat."""
    if not isinstance(right, Penalty):
        return NotImplemented
    return Sum(_parts(left) + _parts(right))


def _parts(penalty: Penalty) -> tuple[Penalty, ...]:
    return penalty.parts if isinstance(penalty, Sum) else (penalty,)


def _added(parts: Iterable[Leaves]) -> Leaves:
    total: Leaves = {}
    for part in parts:
        for index, amount in part.items():
            total[index] = total.get(index, 0.0) + amount
    return total


def _own(part: Penalty, flat: FlatTree, leaves: Leaves) -> Leaves:
    return {index: leaves[index] for index in part.touched(flat) if index in leaves}
