"""A ramp of exact zeros where units tie, where penalties hold squares, and what it takes for a constant."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply

import jaxreg
from jaxreg import groups

CONSTANT = {"kernel": np.ones((5, 8), np.float32), "other": {"kernel": np.full((3, 4), -1, np.float32)}}
COLUMNS = groups.outputs()


def decoupled(plain):
    def make(penalty):
        return optax.chain(plain, jaxreg.target_sparsity(penalty, 0.05, 0.6, begin_step=0, end_step=5))

    return make


def prox_sgd(penalty):
    return jaxreg.prox_sgd(0.05, jaxreg.sparsity_ramp(penalty, 0.6, begin_step=0, end_step=5))


@pytest.mark.parametrize(
    ("make", "penalty", "dtype"),
    [
        (decoupled(optax.sgd(0.05)), jaxreg.l1(1.0), jnp.float32),
        (decoupled(optax.lion(0.05)), jaxreg.l1(1.0), jnp.bfloat16),
        (decoupled(optax.lion(0.05)), jaxreg.group_lasso(1.0, COLUMNS), jnp.float32),
        (decoupled(optax.sgd(0.05)), jaxreg.sparse_group_lasso(1.0, COLUMNS, 0.5), jnp.float32),
        (prox_sgd, jaxreg.l1(1.0), jnp.float32),
        (prox_sgd, jaxreg.mcp(1.0), jnp.float32),
    ],
)
def test_constant_leaves_are_on_the_ramp_and_live(make, penalty, dtype):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), CONSTANT)
    optimizer = make(penalty)

    @jax.jit
    def run():
        def body(carry, _):
            params, state = carry
            updates, state = optimizer.update(params, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(body, (params, optimizer.init(params)), length=7)[1]

    kernels = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(run())]
    zero = [np.all(leaf == 0, axis=1) if penalty.kind.endswith("lasso") else leaf == 0 for leaf in kernels]
    units = sum(flags[0].size for flags in zero)
    counts = sum(flags.reshape(7, -1).sum(axis=1) for flags in zero)
    progress = np.minimum(np.arange(1, 8) / 5, 1)
    np.testing.assert_array_equal(counts, np.round(0.6 * (1 - (1 - progress) ** 3) * units))
    # All weights are alike at all times: those that live go where the optimizer alone takes them.
    assert min(np.abs(leaf[leaf != 0]).min(initial=1) for leaf in kernels) > 0.6


def test_one_of_those_that_tie_lives_and_the_strength_is_that_below_the_tie():
    @jax.jit
    def run(point, target):
        link = jaxreg.target_sparsity(jaxreg.l1(1.0), 0.5, target, begin_step=0, end_step=1)
        params = point - 0.5  # an update that withstands a strength of 1
        return apply(link)(jnp.full_like(params, 0.5), link.init(params), params)

    new, state = run(jnp.ones(5), 0.999)
    np.testing.assert_array_equal(new, [1.0, 0.0, 0.0, 0.0, 0.0])
    assert state.strength == 0
    new, state = run(jnp.array([0.25, 1.0, -1.0, 1.0, 2.0]), 0.6)
    np.testing.assert_array_equal(new, [0.0, 0.75, 0.0, 0.0, 1.75])
    assert state.strength == 0.5


@pytest.mark.parametrize("method", ["strength", "projection"])
@pytest.mark.parametrize(
    "penalty",
    [jaxreg.l1(1e-3) + jaxreg.l2(0.5), jaxreg.elastic_net(2.0, 0.5)],
    ids=["l1 + l2", "elastic_net"],
)
def test_squares_keep_their_own_strength_on_the_ramp_and_after_it(penalty, method):
    # Both hold w^2 / 2: what lives ends at half of where the loss alone has it.
    ramped = jaxreg.sparsity_ramp(penalty, 0.5, begin_step=40, end_step=50, method=method)
    optimizer, wanted = jaxreg.prox_sgd(0.5, ramped), np.array([4.0, -0.5, 1.0, -3.0], np.float32)

    @jax.jit
    def run():
        def body(carry, _):
            params, state = carry
            params, state = jaxreg.step(optimizer, params - wanted, state, params)
            return (params, state), params

        return jax.lax.scan(body, (jnp.asarray(wanted), optimizer.init(wanted)), length=90)[1]

    path = run()
    np.testing.assert_allclose(path[39], wanted, rtol=1e-5)  # before the ramp nothing is applied
    np.testing.assert_allclose(path[-1], [2.0, 0.0, 0.0, -1.5], rtol=1e-5)


def test_the_gradient_takes_the_threshold_for_a_constant():
    params, grads = np.float32([2.0, 0.5, -1.0, 3.0]), np.float32([1.0, 0.5, 0.25, -2.0])

    @jax.jit
    @jax.jacfwd
    def slope(rate):
        link = jaxreg.target_sparsity(jaxreg.l1(1.0), rate, 0.5, begin_step=0, end_step=1)
        return apply(link)(-rate * grads, link.init(params), params)[0]

    np.testing.assert_allclose(slope(0.1), [-1.0, 0.0, 0.0, 2.0], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"every": 2}])
def test_all_its_numbers_may_be_injected(options):
    make = optax.inject_hyperparams(jaxreg.target_sparsity, static_args=("penalty",))
    link = make(jaxreg.l1(1.0), 0.1, 0.5, begin_step=0, end_step=3, **options)
    params = jnp.arange(1.0, 9.0)
    state, counts = link.init(params), []
    update = jax.jit(apply(link))
    for _ in range(3):
        params, state = update(jnp.zeros(8), state, params)
        counts.append(np.sum(np.asarray(params) == 0))
    assert counts == ([0, 4, 4] if options else [3, 4, 4])
