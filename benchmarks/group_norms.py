"""The prox of the group lasso by itself, on 28 million float32 parameters, in place.

Against the dense formula written by hand: `jnp.linalg.norm` over the axes of a group and one multiplication.
The per-element form takes one step size per weight, as Adam's metric needs it. It solves an equation per
group, so there is no formula to write by hand: its ratio says what the metric costs.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import jaxreg
from benchmarks.runner import Comparison, Program, Repeated, Step, readable_bytes
from benchmarks.training_steps import Kernels

STRENGTH = 1e-5  # shrinks a group by so little that none dies while the clock runs
BLOCK = 4


def build(*, quick: bool) -> Iterator[Comparison]:
    leaves, size = (2, 200) if quick else (7, 2000)
    rows = (
        ("outputs", jaxreg.groups.outputs(), naive(lambda x: (x, 0)), size),
        ("inputs", jaxreg.groups.inputs(), naive(lambda x: (x, 1)), size),
        ("blocks of 4 x 4", jaxreg.groups.blocks((BLOCK, BLOCK)), naive(tiles), (size // BLOCK) ** 2),
    )
    for name, groups, by_hand, groups_per_leaf in rows:
        mask = leaves * groups_per_leaf * size**2
        yield Comparison(
            f"Group lasso prox, {name}, {leaves} kernels of {size} x {size}",
            list(programs(leaves, size, groups, by_hand)),
            rounds=41,
            note=f"A bool mask of groups times elements would take {readable_bytes(mask)}.",
        )


def programs(
    leaves: int, size: int, groups: Any, by_hand: Callable[[jax.Array], jax.Array]
) -> Iterator[Program]:
    kernels = Kernels(leaves, size)
    steps = jax.tree.map(lambda z: jnp.exp(30 * z), kernels.draw(seed=1, scale=2e-2))
    penalty = jaxreg.group_lasso(STRENGTH, groups)

    def start() -> Any:
        return kernels.draw(seed=0, scale=1.0)

    def program(name: str, step: Callable[..., Any], *rest: Any) -> Program:
        compiled = Step(step, start, *rest)
        return Program(name, Repeated(compiled), compiled.facts())

    yield program("by hand, one step size", lambda params: jax.tree.map(by_hand, params))
    yield program("jaxreg, one step size", lambda params: penalty.prox(params, 1.0))
    yield program("jaxreg, a step size per element", penalty.prox, steps)


def naive(view: Callable[[jax.Array], tuple[jax.Array, Any]]) -> Callable[[jax.Array], jax.Array]:
    def prox(x: jax.Array) -> jax.Array:
        grouped, axes = view(x)
        norms = jnp.linalg.norm(grouped, axis=axes, keepdims=True)
        threshold = STRENGTH * (grouped.size / norms.size) ** 0.5
        return (grouped * jnp.maximum(1 - threshold / norms, 0)).reshape(x.shape)

    return prox


def tiles(x: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
    rows, columns = x.shape
    return x.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK), (1, 3)
