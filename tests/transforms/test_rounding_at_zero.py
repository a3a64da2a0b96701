"""Weights that something else sets to zero, between steps or in a link before, and what rounding left."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply

import jaxreg


@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
def test_a_weight_that_is_set_to_zero_stays_there(rounding):
    link = jaxreg.weight_decay(1e-3, rounding=rounding)
    params = jnp.full(8, 0.3, jnp.bfloat16)
    state = link.init(params)
    update = jax.jit(apply(link))
    for _ in range(3):
        params, state = update(jnp.zeros_like(params), state, params)
    pruned = params.at[:4].set(0.0)
    params, state = update(jnp.zeros_like(params), state, pruned)
    np.testing.assert_array_equal(np.asarray(params[:4], np.float32), 0.0)
    assert np.all(np.asarray(params[4:], np.float32) > 0)


SETTERS = {
    "decay": lambda: jaxreg.weight_decay(0.0, rounding="compensated"),
    "prox": lambda: jaxreg.proximal(jaxreg.l1(0.0), 1.0, rounding="compensated"),
}


@pytest.mark.parametrize("name", SETTERS)
def test_nothing_is_left_of_a_weight_that_a_link_before_sets_to_zero(name):
    link = optax.chain(optax.keep_params_nonnegative(), SETTERS[name]())
    update, params = jax.jit(apply(link)), jnp.full(4, 0.3, jnp.bfloat16)
    params, state = update(jnp.array([1e-4, -1e-4, 1e-4, -1e-4]), link.init(params), params)
    assert np.all(np.asarray(state[-1].remainders) != 0)
    params, state = update(jnp.array([-1.0, -1.0, 0.0, 0.0]), state, params)
    np.testing.assert_array_equal(np.asarray(params[:2], np.float32), 0.0)
    np.testing.assert_array_equal(np.asarray(state[-1].remainders) != 0, [False, False, True, True])


@pytest.mark.parametrize("rounding", [None, "stochastic", "compensated"])
def test_a_decay_of_a_weight_set_to_zero_is_still_a_share_of_what_it_was(rounding):
    link = optax.chain(optax.keep_params_nonnegative(), jaxreg.weight_decay(0.125, rounding=rounding))
    params = jnp.full(4, 0.5, jnp.bfloat16)
    params, _ = jax.jit(apply(link))(jnp.full(4, -1.0), link.init(params), params)
    np.testing.assert_array_equal(np.asarray(params, np.float32), -0.0625)
