"""The coupled form: a penalty's gradient added to the loss's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, assert_same_bits, gradients, parameters, train

import jaxreg
from jaxreg import groups, masks

PENALTIES = {
    "l1": jaxreg.l1(0.3),
    "l2 on weights": jaxreg.l2(0.3, mask=masks.weights),
    "group lasso": jaxreg.group_lasso(0.3, groups.outputs(), mask=masks.weights),
    "sum": jaxreg.l1(0.3, mask=masks.weights) + jaxreg.l2(0.1, mask=masks.biases),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_it_is_training_with_the_penalty_in_the_loss(name):
    penalty = PENALTIES[name]
    target = gradients(1)[0]

    def loss(params):
        return optax.tree.norm(optax.tree.sub(params, target), squared=True)

    added = optax.chain(jaxreg.add_penalty(penalty), optax.adam(0.1))
    params, plain = parameters(), optax.adam(0.1)
    expected, state, expected_state = params, added.init(params), plain.init(params)

    @jax.jit
    def update(params, state, expected, expected_state):
        updates, state = added.update(jax.grad(loss)(params), state, params)
        gradient = jax.grad(lambda w: loss(w) + penalty(w))(expected)
        other, expected_state = plain.update(gradient, expected_state, expected)
        return (
            optax.apply_updates(params, updates),
            state,
            optax.apply_updates(expected, other),
            expected_state,
        )

    for _ in range(4):
        params, state, expected, expected_state = update(params, state, expected, expected_state)
    assert_close(params, expected, rtol=1e-5, atol=1e-6)


def test_l2_is_coupled_weight_decay_of_twice_the_strength():
    # PyTorch's SGD: g <- g + weight_decay w, then the trace, then the step.
    decay, momentum, rate = 0.4, 0.9, 0.1
    optimizer = optax.chain(jaxreg.add_penalty(jaxreg.l2(decay / 2)), optax.sgd(rate, momentum))
    params, grads = parameters(), gradients()
    actual, _ = train(optimizer, grads, params, jax.jit)
    for leaf in ("kernel", "bias"):
        weight = np.asarray(params["layer"][leaf], np.float64)
        trace = np.zeros_like(weight)
        for grad in grads:
            trace = momentum * trace + grad["layer"][leaf] + decay * weight
            weight = weight - rate * trace
        np.testing.assert_allclose(actual["layer"][leaf], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "penalty",
    [
        jaxreg.l1(0.3),
        jaxreg.elastic_net(0.3, 0.5),
        jaxreg.group_lasso(0.3, groups.layers()),
        jaxreg.sparse_group_lasso(0.3, groups.layers(), 0.5),
    ],
    ids=lambda penalty: penalty.kind,
)
def test_zero_weights_get_no_push(penalty):
    params = {"w": jnp.array([0.0, -0.0]), "z": jnp.zeros(2, jnp.complex64)}
    added = jaxreg.add_penalty(penalty)
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates, _ = added.update(nothing, added.init(params), params)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_array_equal(leaf, 0.0)


def test_there_is_no_state_and_other_leaves_keep_their_bits():
    params, [grads] = parameters(), gradients(1)
    added = jaxreg.add_penalty(jaxreg.l1(0.3, mask=masks.weights))
    state = added.init(params)
    assert jax.tree.leaves(state) == []
    updates, _ = added.update(grads, state, params)
    assert_same_bits(updates["layer"]["bias"], grads["layer"]["bias"])


def test_complex_gradients_are_in_the_convention_of_optax():
    # Steepest descent on |z|^2 goes straight to 0; the gradient of jax.grad would go around it.
    params = jnp.array([1.0 + 1.0j])
    optimizer = optax.chain(jaxreg.add_penalty(jaxreg.l2(1.0)), optax.sgd(0.25))
    actual, _ = train(optimizer, [jnp.zeros(1, jnp.complex64)], params)
    np.testing.assert_allclose(actual, [0.5 + 0.5j], rtol=1e-6)


@pytest.mark.parametrize("given", [0.1, None, masks.weights])
def test_what_is_not_a_penalty_is_refused(given):
    with pytest.raises(TypeError) as caught:
        jaxreg.add_penalty(given)
    assert str(caught.value) == (
        "The 'penalty' parameter of add_penalty must be a jaxreg.Penalty, such as jaxreg.l1(1e-4). "
        f"Got {given!r}."
    )


def test_updates_of_another_structure_are_refused():
    params = parameters()
    added = jaxreg.add_penalty(jaxreg.l1(0.3))
    with pytest.raises(ValueError, match="'updates' must have the tree structure of the parameters"):
        added.update({"layer": params["layer"]["kernel"]}, added.init(params), params)
