"""Powers of the radius below 1, whose prox solves one equation."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxreg.penalties.radial import RadialPenalty

NEWTON_STEPS = 6  # to rounding in float64: the slope of the equation is at least (2 - power) / 2


@dataclasses.dataclass(frozen=True)
class QuasiNorm(RadialPenalty):
    """``strength * r^power`` for a power between 0 and 1."""

    power: ClassVar[float]

    def phi(self, r: Any, strength: Any) -> Any:
        return strength * r**self.power

    def slope(self, r: Any, strength: Any) -> Any:
        return strength * self.power * r ** (self.power - 1)

    def slope_at_zero(self, strength: Any) -> Any:
        return jnp.where(strength > 0, jnp.inf, 0.0)

    def shrink(self, r: Any, step: Any, strength: Any) -> Any:
        """The larger root of ``v + p v^(p - 1) = u``, in the unit that makes step times strength 1."""
        power = self.power
        unit = step ** (1 / (2 - power)) * strength ** (1 / (2 - power))
        lowest = (2 * (1 - power)) ** (1 / (2 - power))  # the root where it is as good as 0
        cut = lowest + power * lowest ** (power - 1)
        u = r / jnp.where(unit > 0, unit, 1.0)
        v = jnp.maximum(u, cut)
        # The equation is convex and v above its root: Newton's method goes down and never past it.
        for _ in range(NEWTON_STEPS):
            slope = 1 - power * (1 - power) * v ** (power - 2)
            v = v - (v - jnp.maximum(u, cut) + power * v ** (power - 1)) / slope
        kept = jnp.where(jnp.isinf(u), r, jnp.minimum(unit * v, r))
        return jnp.where(unit > 0, jnp.where(u > cut, kept, 0.0), r)
