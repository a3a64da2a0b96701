"""One jitted step on 28 million float32 parameters (7 kernels of 2000 x 2000), gradients given.

Parameters and optimizer state are donated. The optax contract returns an update, which `optax.apply_updates`
adds to the parameters inside the same program; `jaxreg.step` returns the new parameters.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxreg
from benchmarks.runner import Comparison, Program
from benchmarks.training_steps import Kernels, contract, direct

LEARNING_RATE = 1e-4
STRENGTH = 1e-4
GROUPS = jaxreg.groups.outputs()


def build(*, quick: bool) -> Iterator[Comparison]:
    leaves, size = (2, 200) if quick else (7, 2000)
    yield Comparison(
        f"Adam step, {leaves} kernels of {size} x {size}",
        list(programs(leaves, size)),
        rounds=101,
        note="Naive: the prox as one would write it, on the result of apply_updates.",
    )


def programs(leaves: int, size: int) -> Iterator[Program]:
    program = Kernels(leaves, size).program
    adam = optax.adam(LEARNING_RATE)
    l1, lasso = jaxreg.l1(STRENGTH), jaxreg.group_lasso(STRENGTH, GROUPS)
    soft, shrink = (
        jaxreg.proximal_l1(STRENGTH, LEARNING_RATE),
        jaxreg.proximal_group_lasso(STRENGTH, LEARNING_RATE, GROUPS),
    )
    yield program("Adam", adam, contract)
    yield program("Adam + proximal_l1, contract", optax.chain(adam, soft), contract, limit=1.05)
    yield program("Adam, then naive l1 prox", adam, followed_by(naive_l1))
    yield program("prox_adam(l1), contract", jaxreg.prox_adam(LEARNING_RATE, l1), contract)
    yield program("prox_adam(l1), jaxreg.step", jaxreg.prox_adam(LEARNING_RATE, l1), direct)
    yield program("Adam + proximal_group_lasso, contract", optax.chain(adam, shrink), contract)
    yield program("Adam, then naive group prox", adam, followed_by(naive_group_lasso))
    fixed = jaxreg.proximal_optimizer(adam, lasso, LEARNING_RATE)
    yield program("Adam + group lasso, jaxreg.step", fixed, direct)
    yield program("prox_adam(group_lasso), contract", jaxreg.prox_adam(LEARNING_RATE, lasso), contract)
    yield program("prox_adam(group_lasso), jaxreg.step", jaxreg.prox_adam(LEARNING_RATE, lasso), direct)


def followed_by(prox: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    def step(optimizer: Any, carry: Any, grads: Any) -> Any:
        params, state = contract(optimizer, carry, grads)
        return jax.tree.map(prox, params), state

    return step


def naive_l1(x: jax.Array) -> jax.Array:
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - LEARNING_RATE * STRENGTH, 0)


def naive_group_lasso(x: jax.Array) -> jax.Array:
    norms = jnp.linalg.norm(x, axis=0, keepdims=True)
    threshold = LEARNING_RATE * STRENGTH * x.shape[0] ** 0.5
    return x * jnp.maximum(1 - threshold / norms, 0)
