"""Projections on sparse sets, on 28 million float32 parameters (7 kernels of 2000 x 2000), not in place.

Next to one soft threshold, which reads and writes everything once. A global k is found by counting: about ten
passes that read everything, and some more where many weights are equal. Sorted: the threshold from
`jnp.sort` of all moduli, with no answer to ties.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import jaxreg
from benchmarks.runner import Comparison, Program, Repeated, temporaries
from benchmarks.training_steps import Kernels

SHARE = 0.1


def build(*, quick: bool) -> Iterator[Comparison]:
    leaves, size = (2, 200) if quick else (7, 2000)
    params = Kernels(leaves, size).draw(seed=0, scale=2e-2)
    coarse = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(jnp.float32), params)
    by_leaf = jaxreg.top_k(SHARE, scope="leaf")
    columns = jaxreg.top_k(SHARE, groups=jaxreg.groups.outputs())
    held = jaxreg.protected(jaxreg.l1(2e-2), max_zero_share=0.5)
    yield Comparison(
        f"Keep {SHARE:.0%} of {leaves} kernels of {size} x {size}",
        [
            program("l1", jaxreg.l1(1e-3).prox, params),
            program("top_k", jaxreg.top_k(SHARE).prox, params, limit=10.0),
            program("top_k, many equals", jaxreg.top_k(SHARE).prox, coarse, limit=10.0),
            program("top_k, each leaf", by_leaf.prox, params, limit=10.0),
            program("top_k, groups of outputs", columns.prox, params),
            program("n_m_sparsity(2, 4)", jaxreg.n_m_sparsity(2, 4).prox, params),
            program("protected l1, cap reached", held.prox, params),
        ],
        rounds=21,
    )
    yield Comparison(
        "Against sorting",
        [
            program("top_k", jaxreg.top_k(SHARE).prox, params),
            program("sorted", by_sorting, params),
        ],
        rounds=3,
    )


def program(name: str, prox: Callable[..., Any], params: Any, limit: float | None = None) -> Program:
    compiled = jax.jit(prox).lower(params, 0.1).compile()
    facts = {"temporaries": temporaries(compiled)}
    return Program(name, Repeated(lambda: compiled(params, 0.1)), facts, limit)


def by_sorting(params: Any, step_size: Any) -> Any:
    del step_size
    sizes = jnp.abs(jnp.concatenate([w.ravel() for w in jax.tree.leaves(params)]))
    threshold = jnp.sort(sizes)[round((1 - SHARE) * sizes.size)]
    return jax.tree.map(lambda w: jnp.where(jnp.abs(w) >= threshold, w, 0), params)
