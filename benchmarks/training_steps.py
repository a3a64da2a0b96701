"""Jitted training steps on kernels whose gradients are given: what the step benchmarks share."""

from collections.abc import Callable
from typing import Any

import jax
import optax

import jaxreg
from benchmarks.runner import Program, Repeated, Step

Advance = Callable[[Any, Any, Any], Any]
"""From an optimizer, ``(params, state)`` and gradients to the next ``(params, state)``."""


def contract(optimizer: Any, carry: Any, grads: Any) -> Any:
    params, state = carry
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def direct(optimizer: Any, carry: Any, grads: Any) -> Any:
    params, state = carry
    return jaxreg.step(optimizer, grads, state, params)


class Kernels:
    """Programs that step through the same gradients of ``leaves`` kernels of ``size`` x ``size``."""

    def __init__(self, leaves: int, size: int):
        self.leaves, self.size = leaves, size
        self.gradients = self.draw(seed=1, scale=1e-2)

    def draw(self, *, seed: int, scale: float) -> Any:
        keys = jax.random.split(jax.random.key(seed), self.leaves)
        shape = (self.size, self.size)
        return {f"layer_{i}": {"kernel": scale * jax.random.normal(k, shape)} for i, k in enumerate(keys)}

    def program(self, name: str, optimizer: Any, step: Advance, limit: float | None = None) -> Program:
        def start() -> Any:
            params = self.draw(seed=0, scale=2e-2)
            return params, optimizer.init(params)

        def advance(carry: Any, grads: Any) -> Any:
            return step(optimizer, carry, grads)

        compiled = Step(advance, start, self.gradients)
        return Program(name, Repeated(compiled), compiled.facts(), limit)
