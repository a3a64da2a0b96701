"""Powers of the ratio of two norms, l1 over l2: how many elements or groups a leaf really uses."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import GroupPenalty, Term, TermPenalty, checked_groups, checked_strength
from jaxreg.penalties.shrinkage import group_norm, modulus
from jaxreg.penalties.value_only import ValueOnly
from jaxreg.tree import FlatTree


@dataclasses.dataclass(frozen=True)
class NormRatio(ValueOnly, GroupPenalty):
    """``strength * (||r||_1 / ||r||_2)^power``, r the moduli of elements or the norms of groups."""

    power: ClassVar[int]
    groups: Groups | None = dataclasses.field(metadata={"static": True})

    def _terms(self, flat: FlatTree) -> list[Term]:
        return TermPenalty._terms(self, flat) if self.groups is None else super()._terms(flat)

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        return term.strength * self._ratio(self._radii(xs, term))

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        """To the limiting subdifferential; a leaf of zeros is a minimum that nothing moves."""
        r = self._radii(xs, term)
        # At radius 0 the slope is the one from the right: how large a gradient a zero withstands.
        slope = term.strength * jax.grad(self._ratio)(r)
        zero, empty = r == 0, jnp.max(r, initial=0.0) == 0
        pull = jnp.where(zero, 0.0, slope / jnp.where(zero, 1.0, r))
        if self.groups is None:
            x, grad = xs[0], grads[0]
            residual = jnp.abs(grad + pull * x)
        else:
            views = term.views
            pulls = [g + view.broadcast(pull) * x for x, g, view in zip(xs, grads, views, strict=True)]
            residual = group_norm(pulls, views)
        distance = jnp.where(zero, jnp.maximum(residual - slope, 0.0), residual)
        distance = jnp.where(empty, 0.0, distance)
        if self.groups is None:
            return [distance]
        return [
            jnp.broadcast_to(view.broadcast(distance), x.shape)
            for x, view in zip(xs, term.views, strict=True)
        ]

    def _radii(self, xs: Sequence[Any], term: Term) -> Any:
        return modulus(xs[0]) if self.groups is None else group_norm(xs, term.views)

    def _ratio(self, r: Any) -> Any:
        # In units of the largest radius, which cancels: neither norm over- or underflows.
        largest = lax.stop_gradient(jnp.max(r, initial=0.0))
        usable = (largest > 0) & jnp.isfinite(largest)
        shares = r / jnp.where(usable, largest, 1.0)
        squares = jnp.sum(shares * shares)
        zero = squares == 0
        squares, total = jnp.where(zero, 1.0, squares), jnp.where(zero, 0.0, jnp.sum(shares))
        return total / jnp.sqrt(squares) if self.power == 1 else total * (total / squares)


def checked_ratio(strength: Any, groups: Groups | None, mask: Any, owner: str) -> dict[str, Any]:
    """The fields of a ratio of norms, checked; all groups count alike."""
    fields = checked_strength(strength, mask, owner)
    if groups is None:
        return fields | {"groups": None, "size_weights": False}
    return fields | checked_groups(groups, False, owner)
