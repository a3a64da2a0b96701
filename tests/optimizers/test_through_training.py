"""Strengths are differentiable through whole runs of training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg import groups

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = optax.cosine_decay_schedule(0.1, 15)  # ends at step size 0

OPTIMIZERS = {
    "prox_sgd": lambda p: jaxreg.prox_sgd(SCHEDULE, p),
    "prox_sgd[momentum]": lambda p: jaxreg.prox_sgd(0.05, p, momentum=0.5),
    "prox_adam": lambda p: jaxreg.prox_adam(0.05, p, eps_root=1e-12),
    "sgd, proximal": lambda p: optax.chain(optax.sgd(SCHEDULE), jaxreg.proximal(p, SCHEDULE)),
    "add_penalty, sgd": lambda p: optax.chain(jaxreg.add_penalty(p), optax.sgd(0.1)),
}
PENALTIES = {
    "l1": jaxreg.l1,
    "elastic_net": lambda s: jaxreg.elastic_net(s, 0.5),
    "group_lasso": lambda s: jaxreg.group_lasso(s, groups.inputs()),
    "sparse_group_lasso": lambda s: jaxreg.sparse_group_lasso(s, groups.inputs(), 0.5),
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(
    ("name", "direct"), [*((name, False) for name in OPTIMIZERS), ("prox_sgd[momentum]", True)], ids=str
)
def test_derivative_in_strength(name: str, penalty: str, direct: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(30, 6))), jnp.asarray(rng.normal(size=(30, 2)))
    start = jnp.asarray(rng.normal(size=(6, 2))).at[0].set(0.0)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.mean((x @ w - y) ** 2)

    @jax.jit
    def trained(strength: jax.Array) -> jax.Array:
        optimizer = OPTIMIZERS[name](PENALTIES[penalty](strength))
        take: Callable = jaxreg.step if direct else _update

        def body(carry, _):
            w, state = carry
            return take(optimizer, jax.grad(loss)(w), state, w), None

        (w, _), _ = jax.lax.scan(body, (start, optimizer.init(start)), None, length=20)
        return loss(w) + jnp.sum(w**3)

    slope, small = jax.jit(jax.grad(trained)), 1e-6
    difference = (trained(0.2 + small) - trained(0.2 - small)) / (2 * small)
    assert abs(difference) > 1e-3
    np.testing.assert_allclose(slope(0.2), difference, rtol=1e-4)


def _update(optimizer, grads, state, w):
    updates, state = optimizer.update(grads, state, w)
    return optax.apply_updates(w, updates), state
