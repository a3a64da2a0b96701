"""proximal_optimizer around optimizers that hold a rate, freeze leaves or accumulate gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply, assert_close, assert_same_bits, gradients, parameters, train

import jaxreg

L1 = jaxreg.l1(0.5)
FROZEN = {"layer": {"kernel": "train", "bias": "freeze"}}
IS_FROZEN = {"layer": {"kernel": False, "bias": True}}
IS_LIVE = {"layer": {"kernel": True, "bias": False}}


def adam_gain(state):
    return jax.tree.map(
        lambda nu: 0.1 / (jnp.sqrt(nu / (1 - 0.999**state.count)) + 1e-8),
        optax.tree.get(state, "nu"),
    )


# The learning rate, from one place


def test_the_learning_rate_is_read_from_inject_hyperparams():
    schedule = optax.exponential_decay(0.2, 1, 0.5)
    plain = jaxreg.proximal_optimizer(optax.sgd(schedule), L1, schedule)
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    ours = jaxreg.proximal_optimizer(injected, L1, jaxreg.learning_rate_of)
    expected, _ = train(plain, gradients(), parameters(), jax.jit)
    for optimizer in (
        ours,
        jaxreg.proximal_optimizer(optax.chain(optax.clip(1e6), injected), L1, jaxreg.learning_rate_of),
    ):
        actual, state = train(optimizer, gradients(), parameters(), jax.jit)
        assert_close(actual, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jaxreg.learning_rate_of(state), 0.2 * 0.5**2, rtol=1e-6)


def test_a_rate_that_is_set_by_hand_reaches_the_prox():
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    optimizer = jaxreg.proximal_optimizer(injected, L1, jaxreg.learning_rate_of)
    params, [grads] = parameters(), gradients(1)
    state = optimizer.init(params)
    state = state._replace(inner=optax.tree.set(state.inner, learning_rate=jnp.asarray(0.3)))
    actual, _ = jax.jit(apply(optimizer))(grads, state, params)
    plain = jaxreg.prox_sgd(0.3, L1)
    assert_close(actual, train(plain, [grads], params)[0], rtol=1e-5, atol=1e-6)


def test_no_rate_or_more_than_one_is_an_error():
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    for optimizer, count in ((optax.sgd(0.1), 0), (optax.chain(injected, injected), 2)):
        ours = jaxreg.proximal_optimizer(optimizer, L1, jaxreg.learning_rate_of)
        with pytest.raises(ValueError, match=f"exactly one learning_rate .* Got {count} in a state"):
            train(ours, gradients(1), parameters())


# Frozen leaves

PARTITION = optax.partition({"train": optax.sgd(0.1), "freeze": optax.set_to_zero()}, FROZEN)
FREEZING = {
    "clipped after": optax.chain(PARTITION, optax.clip_by_global_norm(1.0)),
    "in MultiSteps": optax.MultiSteps(PARTITION, every_k_schedule=2),
    "in apply_if_finite": optax.apply_if_finite(PARTITION, 3),
    "jitted": optax.GradientTransformation(PARTITION.init, jax.jit(PARTITION.update)),
    "set_to_zero at the end": optax.chain(optax.adam(0.1), optax.masked(optax.set_to_zero(), IS_FROZEN)),
    "set_to_zero at the start": optax.chain(optax.masked(optax.set_to_zero(), IS_FROZEN), optax.sgd(0.1)),
    "partition": optax.partition({"train": optax.adam(0.1), "freeze": optax.set_to_zero()}, FROZEN),
    "partition in a chain": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.partition({"train": optax.sgd(0.1, momentum=0.9), "freeze": optax.set_to_zero()}, FROZEN),
    ),
    "masked adam and set_to_zero": optax.chain(
        optax.masked(optax.adam(0.1), IS_LIVE), optax.masked(optax.set_to_zero(), IS_FROZEN)
    ),
}


@pytest.mark.parametrize("name", FREEZING)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("direct", [False, True], ids=["update", "step"])
def test_frozen_leaves_are_left_alone(name, transform, direct):
    optimizer = jaxreg.proximal_optimizer(FREEZING[name], L1, 0.1)
    run = transform((lambda g, s, p: jaxreg.step(optimizer, g, s, p)) if direct else apply(optimizer))
    params, state = parameters(), optimizer.init(parameters())
    for grads in gradients():
        params, state = run(grads, state, params)
    assert_same_bits(params["layer"]["bias"], parameters()["layer"]["bias"])
    # The rest is shrunk as ever.
    only = jaxreg.proximal_optimizer(optax.adam(0.1), L1, 0.1)
    if name == "partition":
        kernels = [{"kernel": grads["layer"]["kernel"]} for grads in gradients()]
        expected, _ = train(only, kernels, {"kernel": parameters()["layer"]["kernel"]})
        assert_close(params["layer"]["kernel"], expected["kernel"], rtol=1e-4, atol=1e-6)
    assert np.any(params["layer"]["kernel"] != parameters()["layer"]["kernel"])


def test_step_sizes_of_a_partitioned_state_leave_the_other_leaves_alone():
    inner = optax.partition({"train": optax.adam(0.1), "freeze": optax.set_to_zero()}, FROZEN)

    def gain(state):
        adam = state.inner_states["train"].inner_state[0]
        assert isinstance(adam.nu["layer"]["bias"], optax.MaskedNode)
        return adam_gain(adam)

    actual, _ = train(jaxreg.proximal_optimizer(inner, L1, gain), gradients(), parameters(), jax.jit)
    expected, _ = train(jaxreg.prox_adam(0.1, L1), gradients(), parameters(), jax.jit)
    assert_close(actual["layer"]["kernel"], expected["layer"]["kernel"], rtol=1e-4, atol=1e-6)
    assert_same_bits(actual["layer"]["bias"], parameters()["layer"]["bias"])


def test_gradients_that_optax_masked_passes_on_are_not_followed_by_a_prox():
    optimizer = jaxreg.proximal_optimizer(optax.masked(optax.sgd(0.1), IS_LIVE), L1, 0.1)
    params, [grads] = parameters(), gradients(1)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    assert_same_bits(updates["layer"]["bias"], grads["layer"]["bias"])
    assert np.any(updates["layer"]["kernel"] != grads["layer"]["kernel"])


def test_leaves_with_no_gradient_are_shrunk_all_the_same():
    """A gradient of zero is not a frozen leaf: loss + penalty has its minimum at zero there."""
    params = {"w": jnp.ones(3)}
    for optimizer in (jaxreg.prox_adam(0.1, L1), jaxreg.proximal_optimizer(optax.sgd(0.1), L1, 0.1)):
        new, _ = train(optimizer, [{"w": jnp.zeros(3)}], params, jax.jit)
        assert np.all(new["w"] < 1)


def test_without_any_leaf_there_is_nothing_to_do():
    for optimizer in (jaxreg.prox_adam(0.1, L1), jaxreg.prox_rmsprop(0.1, L1)):
        updates, _ = optimizer.update({}, optimizer.init({}), {})
        assert updates == {}


# MultiSteps


def accumulated(name):
    inner = {"sgd": optax.sgd, "adam": optax.adam}[name](0.1)
    return optax.MultiSteps(inner, every_k_schedule=2)


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("direct", [False, True], ids=["update", "step"])
def test_around_multi_steps_the_prox_waits_for_the_step(name, direct):
    def gain(state):
        return 0.1 if name == "sgd" else adam_gain(state.inner_opt_state[0])

    outside = jaxreg.proximal_optimizer(accumulated(name), L1, gain)
    prox = {"sgd": jaxreg.prox_sgd, "adam": jaxreg.prox_adam}[name](0.1, L1)
    inside = optax.MultiSteps(prox, every_k_schedule=2)
    run = jax.jit((lambda g, s, p: jaxreg.step(outside, g, s, p)) if direct else apply(outside))
    reference = jax.jit(apply(inside))
    params, expected = parameters(), parameters()
    state, expected_state = outside.init(params), inside.init(expected)
    for index, grads in enumerate(gradients(6)):
        before = params
        params, state = run(grads, state, params)
        expected, expected_state = reference(grads, expected_state, expected)
        assert_close(params, expected, rtol=1e-4, atol=1e-6)
        if index % 2 == 0:
            assert_same_bits(params, before)
    assert state.count == 3  # steps, not calls


def test_the_schedule_of_a_step_size_counts_steps_and_not_calls():
    rates = jnp.array([0.4, 0.2, 0.1])
    accumulating = optax.MultiSteps(optax.sgd(lambda count: rates[count]), every_k_schedule=2)
    optimizer = jaxreg.proximal_optimizer(accumulating, L1, lambda count: rates[count])
    reference = jaxreg.prox_sgd(lambda count: rates[count], L1)
    grads = gradients()
    twice = [grad for grad in grads for _ in range(2)]
    actual, _ = train(optimizer, twice, parameters(), jax.jit)
    assert_close(actual, train(reference, grads, parameters(), jax.jit)[0], rtol=1e-5, atol=1e-6)


def test_multi_steps_for_some_leaves_only_is_refused():
    inner = {"train": optax.sgd(0.1), "freeze": optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()}
    optimizer = jaxreg.proximal_optimizer(optax.partition(inner, FROZEN), L1, 0.1)
    with pytest.raises(ValueError, match=r"optax.MultiSteps that only some leaves pass through"):
        train(optimizer, gradients(1), parameters())


def test_a_skipped_micro_batch_is_no_step():
    def bad(updates, gradient_step, params):
        del gradient_step, params
        return jnp.isnan(updates["layer"]["bias"]).any(), ()

    skipping = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=1, should_skip_update_fn=bad)
    optimizer = jaxreg.proximal_optimizer(skipping, L1, 0.1)
    run = jax.jit(apply(optimizer))
    [grads] = gradients(1)
    params, state = run(grads, optimizer.init(parameters()), parameters())
    broken = jax.tree.map(lambda g: g * jnp.nan, grads)
    after, state = run(broken, state, params)
    assert_same_bits(after, params)
    assert state.count == 1
    chex.assert_tree_all_finite(after)
