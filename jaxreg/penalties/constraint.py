"""What constraints share: a set to stay in, as a penalty whose prox is the projection."""

import dataclasses
from typing import Any, Self

import jax.numpy as jnp
from jax import lax

from jaxreg.arguments import check_number
from jaxreg.penalties.base import Leaves, Penalty
from jaxreg.tree import FlatTree

ULPS = 16
"""How many units of rounding of a leaf's dtype count as inside."""


@dataclasses.dataclass(frozen=True)
class Constraint(Penalty):
    """The indicator of a set: 0 inside, infinity outside, without a gradient.

    A subclass gives the projection. A point is inside where the projection moves no element
    by more than rounding.
    """

    mask: Any = dataclasses.field(metadata={"static": True})

    def project(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        """``argmin_z sum_i |z_i - x_i|^2 / (2 s_i)`` over the set; elements with step 0 may move."""
        raise NotImplementedError(f"{type(self).__name__} must define project().")  # the subclass's duty

    def scale(self, factor: Any) -> Self:
        """The same constraint: infinity times a factor is infinity."""
        check_number(factor, "factor", "scale")
        return self

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return tuple(self.mask.indices(flat))

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        leaves = {index: lax.stop_gradient(leaf) for index, leaf in leaves.items()}
        nearest = self.project(flat, leaves, dict.fromkeys(leaves, 1.0))
        inside: Any = True
        for index, leaf in leaves.items():
            rounding = ULPS * jnp.finfo(flat.leaves[index].dtype).eps
            size = jnp.max(jnp.abs(leaf), initial=0.0)
            inside &= jnp.all(jnp.abs(leaf - nearest[index]) <= rounding * size)
        return jnp.where(inside, 0.0, jnp.inf)

    def prox_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        return {
            index: jnp.where(steps[index] > 0, nearest, leaves[index])
            for index, nearest in self.project(flat, leaves, steps).items()
        }
