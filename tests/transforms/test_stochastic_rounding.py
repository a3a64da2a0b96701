"""Which coins stochastic rounding throws: of whom, by which seed, and where they go on."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import apply, assert_same_bits

import jaxreg

FLIP = jaxreg.weight_decay(0.0, rounding="stochastic")
flip = jax.jit(apply(FLIP))


def coins(steps, **given):
    """For each step and leaf which weights were rounded up, where each lies between two numbers."""
    params = {name: jnp.ones(256, jnp.bfloat16) for name in "abc"}
    moves = {name: jnp.full(256, 2.0**-8) for name in "abc"}
    state = jaxreg.weight_decay(0.0, rounding="stochastic", **given).init(params)
    seen = []
    for _ in range(steps):
        new, state = flip(moves, state, params)
        seen += [tuple(np.asarray(leaf, np.float32) > 1) for leaf in new.values()]
    return seen


def test_no_two_leaves_and_no_two_steps_share_their_coins():
    seen = coins(steps=4)
    assert len(set(seen)) == 12
    assert all(80 < sum(pattern) < 176 for pattern in seen)
    agree = [np.mean(np.equal(a, b)) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(agree) > 0.3
    assert max(agree) < 0.7


def test_the_coins_are_not_what_others_draw_from_the_seed():
    fold, split, draw = jax.random.fold_in, jax.random.split, jax.random.uniform
    key = jax.random.key(0)
    keys = [*split(key, 3), *split(split(key)[1], 3), *split(split(key)[0], 3), *split(fold(key, 0))]
    drawn = {
        tuple(np.asarray(pattern) < 0.5)
        for pattern in jax.jit(jax.vmap(lambda k: draw(k, (256,))))(jnp.stack(keys))
    }
    assert drawn.isdisjoint(coins(steps=2))


def test_the_seed_says_which_coins():
    first = coins(steps=2)
    assert coins(steps=2, seed=0) == first
    assert set(coins(steps=2, seed=7)).isdisjoint(first)


def test_an_ensemble_draws_apart_where_each_member_has_its_seed():
    params = {"w": jnp.ones((3, 256), jnp.bfloat16)}
    move = {"w": jnp.full((3, 256), 2.0**-8)}

    def begin(params, seed):
        return jaxreg.weight_decay(0.0, rounding="stochastic", seed=seed).init(params)

    step = jax.jit(jax.vmap(apply(FLIP)))
    shared, _ = step(move, jax.vmap(FLIP.init)(params), params)
    first, second, third = np.asarray(shared["w"], np.float32)
    assert np.all(first == second)
    assert np.all(first == third)
    apart, _ = step(move, jax.vmap(begin)(params, jnp.arange(3)), params)
    first, second, third = np.asarray(apart["w"], np.float32)
    assert np.all(first == shared["w"][0])
    assert 80 < np.sum(first != second) < 176
    assert 80 < np.sum(second != third) < 176


def test_a_state_goes_on_under_another_implementation_of_random_numbers():
    params, move = jnp.ones(256, jnp.bfloat16), jnp.full(256, 2.0**-8)
    kinds = ("threefry2x32", "rbg")
    states, expected = {}, {}
    for kind in kinds:
        with jax.default_prng_impl(kind):
            states[kind] = FLIP.init(params)
            expected[kind] = jax.jit(apply(FLIP))(move, states[kind], params)
    assert np.any(expected["rbg"][0] != expected["threefry2x32"][0])
    for kind, other in (kinds, kinds[::-1]):
        with jax.default_prng_impl(other):
            assert_same_bits(jax.jit(apply(FLIP))(move, states[kind], params), expected[kind])
