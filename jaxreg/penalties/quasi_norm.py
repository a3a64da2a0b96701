"""Powers of the radius below 1, whose prox solves one equation."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from jaxreg.penalties.radial import RadialPenalty
from jaxreg.penalties.shrinkage import ratio

NEWTON_STEPS = 6  # to rounding in float64: the slope of the equation is at least (2 - power) / 2
FAR = 1e6  # in units, from where on two terms of a series are exact in float64


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
        # Far out, where the second order of the shrinkage is below rounding, the first is exact. It
        # is also what a strength of 0 has as its derivative.
        near = r < FAR * lax.stop_gradient(self._unit(step, strength))
        unit = self._unit(jnp.where(near, step, 1.0), jnp.where(near, strength, 1.0))
        lowest = (2 * (1 - power)) ** (1 / (2 - power))  # the root where it is as good as 0
        cut = lowest + power * lowest ** (power - 1)
        u = ratio(jnp.where(near, r, 1.0), unit)
        v = jnp.maximum(u, cut)
        # The equation is convex and v above its root: Newton's method goes down and never past it.
        for _ in range(NEWTON_STEPS):
            slope = 1 - power * (1 - power) * v ** (power - 2)
            v = v - (v - jnp.maximum(u, cut) + power * v ** (power - 1)) / slope
        alive = u > cut
        shrunk = jnp.where(alive, jnp.minimum(jnp.where(alive, unit, 1.0) * v, r), 0.0)
        # The floor keeps the derivative of the slope among the floats.
        base = jnp.maximum(jnp.where(near, 1.0, r), float(jnp.finfo(r.dtype).tiny) ** 0.5)
        first_order = jnp.where(near, 0.0, step) * self.slope(base, strength)
        return jnp.where(near, shrunk, r - first_order)

    def _unit(self, step: Any, strength: Any) -> Any:
        root = 1 / (2 - self.power)
        return step**root * strength**root
