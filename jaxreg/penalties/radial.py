"""Penalties that are one scalar function of a radius: an element's modulus or a group's norm."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxreg.arguments import check_flag
from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import GroupPenalty, Term, TermPenalty, checked_groups, checked_strength
from jaxreg.penalties.shrinkage import direction, group_norm, l1_distance, modulus, ratio
from jaxreg.penalties.steps import require_one_step
from jaxreg.penalties.vanishing import smallest_factor
from jaxreg.tree import FlatTree, is_complex

ALMOST_ZERO = 1e-30
REMEDY = (
    "Give it elements (groups=None), a scalar step size (prox_sgd, fista, proximal), or take group_lasso."
)


@dataclasses.dataclass(frozen=True)
class RadialPenalty(GroupPenalty):
    """``sum_g phi(||w_g||; strength * weight_g)``; without groups an element is a group of its own.

    A subclass gives phi, its slope, and the prox of phi on radii ``r >= 0``. Its prox is then radial:
    ``w_g prox_phi(||w_g||) / ||w_g||``.
    """

    groups: Groups | None = dataclasses.field(metadata={"static": True})

    def phi(self, r: Any, strength: Any) -> Any:
        """The penalty of positive radii; it is 0 at radius 0."""
        raise NotImplementedError(f"{type(self).__name__} must define phi().")  # the subclass's duty

    def slope(self, r: Any, strength: Any) -> Any:
        """The derivative of phi at positive radii."""
        raise NotImplementedError(f"{type(self).__name__} must define slope().")  # the subclass's duty

    def slope_at_zero(self, strength: Any) -> Any:
        """The derivative of phi at 0 from the right: how large a gradient a zero withstands."""
        raise NotImplementedError(
            f"{type(self).__name__} must define slope_at_zero()."
        )  # the subclass's duty

    def shrink(self, r: Any, step: Any, strength: Any) -> Any:
        """``argmin_z>=0 phi(z) + (z - r)^2 / (2 step)``, for steps above 0."""
        raise NotImplementedError(f"{type(self).__name__} must define shrink().")  # the subclass's duty

    def _terms(self, flat: FlatTree) -> list[Term]:
        return TermPenalty._terms(self, flat) if self.groups is None else super()._terms(flat)

    def _radii(self, xs: Sequence[Any], term: Term) -> tuple[Any, Any]:
        """The radii of a term, and the strength of each."""
        if self.groups is None:
            return modulus(xs[0]), term.strength
        return group_norm(xs, term.views), self.thresholds(term.strength, term)

    def term_value(self, xs: Sequence[Any], term: Term) -> Any:
        r, strength = self._radii(xs, term)
        # Neither the value nor the gradient may see an infinite slope at 0.
        zero = r == 0
        return jnp.sum(jnp.where(zero, 0.0, self.phi(jnp.where(zero, 1.0, r), strength)))

    def term_prox(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Sequence[Any]:
        if self.groups is not None:
            require_one_step(f"prox of {self.kind} over groups", steps, remedy=REMEDY)
        r, strength = self._radii(xs, term)
        # A zero moves like what is close to it, also to differentiation.
        r = jnp.where(r == 0, ALMOST_ZERO, r)
        step = jnp.asarray(steps[0])
        moves = (step > 0) & ~jnp.isnan(r)
        z = jnp.where(moves, self.shrink(r, jnp.where(step > 0, step, 1.0), strength), r)
        if self.groups is None:
            return [_with_modulus(xs[0], r, z)]
        factor = _factor(z, r)
        return [
            jnp.where(view.broadcast(z == 0), 0.0, x * view.broadcast(factor))
            for x, view in zip(xs, term.views, strict=True)
        ]

    def term_vanishing(self, xs: Sequence[Any], steps: Sequence[Any], term: Term) -> Any:
        if self.groups is not None:
            require_one_step(f"prox of {self.kind} over groups", steps, remedy=REMEDY)
        r, strength = self._radii(xs, term)
        step = jnp.asarray(steps[0])
        room = jnp.where(step > 0, step, 1.0)
        found = smallest_factor(lambda factor: self.shrink(r, room, strength * factor) == 0, r)
        return jnp.where((step > 0) | (r == 0), found, jnp.inf)

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Term
    ) -> Sequence[Any]:
        r, strength = self._radii(xs, term)
        zero = r == 0
        positive = jnp.where(zero, 1.0, r)
        slope = self.slope(positive, strength)
        withstood = self.slope_at_zero(strength)
        if self.groups is None:
            x, grad = xs[0], grads[0]
            stays = jnp.maximum(jnp.abs(grad) - withstood - soft[0], 0.0)
            return [jnp.where(zero, stays, l1_distance(x, grad + slope * direction(x), soft[0]))]
        pulls = [
            grad + view.broadcast(slope) * ratio(x, view.broadcast(positive))
            for x, grad, view in zip(xs, grads, term.views, strict=True)
        ]
        residual = group_norm(pulls, term.views)
        distance = jnp.where(zero, jnp.maximum(residual - withstood, 0.0), residual)
        return [
            jnp.broadcast_to(view.broadcast(distance), x.shape)
            for x, view in zip(xs, term.views, strict=True)
        ]


def _with_modulus(x: Any, r: Any, z: Any) -> Any:
    """An x with its modulus r changed to z; bit-identical where that is no change."""
    scaled = x * _factor(z, r)
    if not is_complex(x):
        # The sign times z is not rounded; a denormal, which CPUs take for 0, is itself.
        scaled = jnp.where(x == 0, jnp.where(z == r, x, scaled), lax.sign(x) * z)
    return jnp.where(z == 0, 0.0, scaled)


def _factor(z: Any, r: Any) -> Any:
    return jnp.where(jnp.isinf(r), 1.0, ratio(z, jnp.where(jnp.isinf(r), 1.0, r)))


def checked_radial(
    strength: Any, groups: Groups | None, size_weights: bool, mask: Any, owner: str
) -> dict[str, Any]:
    """The fields that all radial penalties share, checked."""
    fields = checked_strength(strength, mask, owner)
    if groups is None:
        return fields | {"groups": None, "size_weights": check_flag(size_weights, "size_weights", owner)}
    return fields | checked_groups(groups, size_weights, owner)
