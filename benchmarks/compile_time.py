"""Tracing, lowering and compiling a jitted step on a tree of 1,000 leaves.

Every sample starts from new functions, new optimizers and empty caches. `init` is not part of it.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxreg
from benchmarks.adam_step import contract, direct, naive_l1
from benchmarks.runner import Comparison, Program, Sample

LEARNING_RATE = 1e-3
STRENGTH = 1e-4
PATTERN = "**/kernel"


def build(*, quick: bool) -> Iterator[Comparison]:
    blocks = 5 if quick else 250
    params = tree(blocks)
    yield Comparison(
        f"Trace and compile a step, {4 * blocks:,} leaves",
        list(programs(params)),
        rounds=9,
        note="A block has a dense kernel and bias and a normalisation's scale and bias.",
    )


def programs(params: Any) -> Iterator[Program]:
    def adam() -> Any:
        return optax.adam(LEARNING_RATE)

    def chained(mask: Any) -> Callable[[], Any]:
        return lambda: optax.chain(adam(), jaxreg.proximal_l1(STRENGTH, LEARNING_RATE, mask=mask))

    def proximal() -> Any:
        return jaxreg.prox_adam(LEARNING_RATE, jaxreg.l1(STRENGTH))

    def program(
        name: str, make: Callable[[], Any], step: Any = contract, limit: float | None = None
    ) -> Program:
        return Program(name, lambda: compilation(make(), step, params), limit=limit)

    yield program("Adam", adam)
    yield program("Adam + proximal_l1", chained(None), limit=1.3)
    yield program("Adam + proximal_l1, mask weights", chained(jaxreg.masks.weights), limit=1.3)
    yield program(
        f"Adam + proximal_l1, mask path('{PATTERN}')", chained(jaxreg.masks.path(PATTERN)), limit=1.3
    )
    yield program("prox_adam(l1), jaxreg.step", proximal, direct)
    yield program("Adam, then naive l1 prox", adam, followed_by_naive_l1)


def compilation(optimizer: Any, step: Callable[..., Any], params: Any) -> Sample:
    jax.clear_caches()
    state = jax.eval_shape(optimizer.init, params)

    def advance(carry: Any, grads: Any) -> Any:
        return step(optimizer, carry, grads)

    jitted = jax.jit(advance, donate_argnums=0)
    start = time.perf_counter()
    traced = jitted.trace((params, state), params)
    after_trace = time.perf_counter()
    lowered = traced.lower()
    after_lower = time.perf_counter()
    lowered.compile()
    end = time.perf_counter()
    return {
        "total": end - start,
        "trace": after_trace - start,
        "lower": after_lower - after_trace,
        "compile": end - after_lower,
    }


def followed_by_naive_l1(optimizer: Any, carry: Any, grads: Any) -> Any:
    params, state = contract(optimizer, carry, grads)
    return jax.tree.map(naive_l1, params), state


def tree(blocks: int) -> Any:
    def leaf(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    return {
        f"block_{i}": {
            "dense": {"kernel": leaf(32, 32), "bias": leaf(32)},
            "norm": {"scale": leaf(32), "bias": leaf(32)},
        }
        for i in range(blocks)
    }
