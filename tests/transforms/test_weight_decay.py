"""Weight decay against optax's, and against the recursion written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, assert_same_bits, gradients, parameters, train

import jaxreg
from jaxreg import masks

RATES = {"number": 0.05, "schedule": optax.linear_schedule(0.1, 0.0, 3)}


@pytest.mark.parametrize("rate", RATES)
def test_it_is_the_decay_of_adamw(rate):
    rate = RATES[rate]
    attached = optax.chain(
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(rate),
        jaxreg.weight_decay(0.3, learning_rate=rate, mask=masks.weights),
    )
    adamw = optax.adamw(rate, weight_decay=0.3, mask=masks.weights)
    params, grads = parameters(), gradients()
    actual, _ = train(attached, grads, params, jax.jit)
    expected, _ = train(adamw, grads, params, jax.jit)
    assert_close(actual, expected)
    undecayed, _ = train(optax.adam(rate), grads, params, jax.jit)
    assert np.any(actual["layer"]["kernel"] != undecayed["layer"]["kernel"])


@pytest.mark.parametrize("strength", [0.3, lambda count: jnp.array([0.3, 0.0, 0.1])[count]])
def test_without_a_learning_rate_it_is_independent_of_it(strength):
    shares = [strength(k) if callable(strength) else strength for k in range(3)]
    params, grads = parameters(), gradients()
    for rate in (0.1, 0.0):
        optimizer = optax.chain(optax.sgd(rate), jaxreg.weight_decay(strength))
        actual, _ = train(optimizer, grads, params)
        expected = params
        for share, grad in zip(shares, grads, strict=True):
            expected = jax.tree.map(lambda w, g, s=share, r=rate: w - r * g - s * w, expected, grad)
        assert_close(actual, expected, rtol=1e-5)


def test_masked_out_updates_keep_their_bits():
    params, [grads] = parameters(), gradients(1)
    decay = jaxreg.weight_decay(0.3, learning_rate=0.1, mask=masks.name("kernel"))
    updates, _ = decay.update(grads, decay.init(params), params)
    assert_same_bits(updates["layer"]["bias"], grads["layer"]["bias"])
    expected = grads["layer"]["kernel"] - 0.03 * params["layer"]["kernel"]
    assert_close(updates["layer"]["kernel"], expected)


def test_a_small_decay_is_not_lost_in_narrow_gradients():
    # 1 + 0.001 rounds to 1 in bfloat16.
    params = jnp.ones(3)
    decay = jaxreg.weight_decay(0.001)
    updates, _ = decay.update(jnp.ones(3, jnp.bfloat16), decay.init(params), params)
    assert_close(updates, jnp.full(3, 0.999))


def test_strength_may_be_traced():
    params, [grads] = parameters(), gradients(1)

    def decayed(strength, rate):
        decay = jaxreg.weight_decay(strength, learning_rate=rate)
        return decay.update(grads, decay.init(params), params)[0]["layer"]["kernel"]

    actual = jax.jit(decayed)(0.5, 0.2)
    assert_close(actual, grads["layer"]["kernel"] - 0.1 * params["layer"]["kernel"])
    slope = jax.grad(lambda strength: decayed(strength, 0.2).sum())(0.5)
    np.testing.assert_allclose(slope, -0.2 * params["layer"]["kernel"].sum(), rtol=1e-6)


NUMBER = "parameter of weight_decay must be a non-negative number. Got"
BAD = [
    ({"strength": -1.0}, ValueError, f"The 'strength' {NUMBER} -1.0."),
    ({"strength": 0.1, "learning_rate": float("nan")}, ValueError, f"The 'learning_rate' {NUMBER} nan."),
    ({"strength": "0.1"}, TypeError, f"The 'strength' {NUMBER} '0.1' of type str."),
]


@pytest.mark.parametrize(("given", "error", "words"), BAD)
def test_bad_arguments(given, error, words):
    with pytest.raises(error) as caught:
        jaxreg.weight_decay(**given)
    assert str(caught.value) == words


def test_a_mask_that_selects_nothing_is_refused_at_init():
    with pytest.raises(ValueError, match="The mask embeddings selects no leaf of the parameters"):
        jaxreg.weight_decay(0.1, mask=masks.embeddings).init(parameters())
