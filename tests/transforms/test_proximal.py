"""The proximal links: formulas, schedules, optax's traps, and the words of their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, assert_same_bits, gradients, parameters, train

import jaxreg
from jaxreg import groups, masks

KERNEL = masks.name("kernel")


def soft(x, threshold):
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0)


def columns(x, threshold):
    norms = np.linalg.norm(x, axis=0)
    return x * np.maximum(1 - threshold * np.sqrt(len(x)) / np.maximum(norms, 1e-300), 0.0)


def test_schedules_of_rate_and_strength_multiply():
    rates, strengths = jnp.array([0.5, 0.25, 0.1]), jnp.array([0.0, 0.4, 1.0])
    penalty = jaxreg.l1(0.8, mask=KERNEL)
    optimizer = jaxreg.proximal(
        penalty, lambda count: rates[count], strength_schedule=lambda count: strengths[count]
    )
    params, updates = parameters(), gradients()
    actual, _ = train(optimizer, updates, params, jax.jit)
    weight = np.asarray(params["layer"]["kernel"], np.float64)
    for rate, strength, update in zip(rates, strengths, updates, strict=True):
        weight = soft(weight + np.asarray(update["layer"]["kernel"]), float(rate * strength) * 0.8)
    np.testing.assert_allclose(actual["layer"]["kernel"], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strength", [0.4, lambda count: jnp.array([0.4, 0.1, 0.0])[count]])
def test_short_forms(strength):
    params, updates = parameters(), gradients()
    strengths = [strength(k) if callable(strength) else strength for k in range(3)]
    for optimizer, shrink in (
        (jaxreg.proximal_l1(strength, 0.5, mask=KERNEL), soft),
        (jaxreg.proximal_group_lasso(strength, 0.5, groups.outputs(), mask=KERNEL), columns),
    ):
        actual, _ = train(optimizer, updates, params, jax.jit)
        weight = np.asarray(params["layer"]["kernel"], np.float64)
        for level, update in zip(strengths, updates, strict=True):
            weight = shrink(weight + np.asarray(update["layer"]["kernel"]), 0.5 * float(level))
        np.testing.assert_allclose(actual["layer"]["kernel"], weight, rtol=1e-5, atol=1e-6)


def test_the_state_is_a_count():
    params = parameters()
    for optimizer in (
        jaxreg.proximal(jaxreg.l1(0.1), 0.1),
        jaxreg.proximal_l1(0.1, 0.1),
        jaxreg.proximal_group_lasso(0.1, 0.1, groups.outputs(), mask=KERNEL),
        jaxreg.weight_decay(0.1),
    ):
        _, state = train(optimizer, gradients(), params)
        assert [leaf.item() for leaf in jax.tree.leaves(state)] == [3]
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == 4


def test_a_step_of_zero_is_the_identity():
    params, [updates] = parameters(), gradients(1)
    link = jaxreg.proximal(jaxreg.group_lasso(3.0, groups.outputs(), mask=KERNEL), 0.0)
    moved, _ = train(link, [updates], params)
    assert_close(moved, optax.apply_updates(params, updates))


def test_strength_and_rate_may_be_traced_and_differentiated():
    params, [updates] = parameters(), gradients(1)

    def moved(strength, rate):
        return train(jaxreg.proximal_l1(strength, rate, mask=KERNEL), [updates], params)[0]["layer"]["kernel"]

    strength, rate = jnp.array(0.4), jnp.array(0.5)
    expected = soft(np.asarray(params["layer"]["kernel"] + updates["layer"]["kernel"]), 0.2)
    np.testing.assert_allclose(jax.jit(moved)(strength, rate), expected, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda s: jnp.sum(moved(s, rate) ** 2) / 2)(strength)
    np.testing.assert_allclose(slope, -0.5 * np.abs(expected).sum(), rtol=1e-5)


def test_one_strength_per_leaf():
    params, [updates] = parameters(), gradients(1)
    moved, _ = train(jaxreg.proximal_l1({"layer": {"kernel": 0.4, "bias": 0.0}}, 0.5), [updates], params)
    plain = optax.apply_updates(params, updates)
    assert_same_bits(moved["layer"]["bias"], plain["layer"]["bias"])
    np.testing.assert_allclose(
        moved["layer"]["kernel"], soft(np.asarray(plain["layer"]["kernel"]), 0.2), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("strength", [jnp.float16(3e-4), 3e-4], ids=["float16", "python"])
def test_a_strength_times_a_float16_schedule_is_not_zero(strength):
    small, weights = jnp.float16(3e-4), jnp.full(2, 1e-6)
    link = jaxreg.proximal(jaxreg.l1(strength), 1.0, strength_schedule=lambda _: small)
    updates, _ = jax.jit(link.update)(jnp.zeros(2), link.init(weights), weights)
    np.testing.assert_allclose(updates, -9e-8, rtol=2e-3)


# optax.inject_hyperparams calls what it can call

STATIC = ("penalty", "mask", "groups")
FACTORIES = {
    "proximal": (jaxreg.proximal, {"penalty": jaxreg.l1(0.2, mask=KERNEL)}),
    "proximal_l1": (jaxreg.proximal_l1, {"strength": 0.2, "mask": KERNEL}),
    "proximal_group_lasso": (
        jaxreg.proximal_group_lasso,
        {"strength": 0.2, "groups": groups.outputs(), "mask": KERNEL},
    ),
    "weight_decay": (jaxreg.weight_decay, {"strength": 0.2, "mask": KERNEL}),
    "prox_sgd": (jaxreg.prox_sgd, {"penalty": jaxreg.l1(0.2, mask=KERNEL), "momentum": 0.9}),
    "prox_adam": (jaxreg.prox_adam, {"penalty": jaxreg.l1(0.2, mask=KERNEL)}),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_inject_hyperparams_with_static_arguments(name):
    factory, given = FACTORIES[name]
    static = [argument for argument in STATIC if argument in given]
    params, grads = parameters(), gradients(2)
    rate = optax.linear_schedule(0.3, 0.1, 2)
    injected = optax.inject_hyperparams(factory, static_args=static)(learning_rate=rate, **given)
    actual, state = train(injected, grads, params, jax.jit)
    expected, _ = train(factory(learning_rate=rate, **given), grads, params, jax.jit)
    assert_close(actual, expected, rtol=1e-3, atol=1e-5)  # 1 - b2 in float32 is not that of the Python number
    numbers = {argument: value for argument, value in given.items() if isinstance(value, float)}
    for argument, value in {"learning_rate": 0.2, **numbers}.items():
        np.testing.assert_allclose(state.hyperparams[argument], value, rtol=1e-6)


@pytest.mark.parametrize("name", FACTORIES)
def test_inject_hyperparams_without_them_names_the_remedy(name):
    factory, given = FACTORIES[name]
    remedy = (
        r"pass static_args=\(\"penalty\", \"mask\", \"groups\", \"corrected\"\).* to optax.inject_hyperparams"
    )
    with pytest.raises(TypeError, match=remedy):
        optax.inject_hyperparams(factory)(learning_rate=0.3, **given).init(parameters())


def test_inject_hyperparams_with_a_plain_function_as_mask_names_the_remedy():
    def mask(params):
        return jax.tree.map(lambda leaf: jnp.ndim(leaf) == 2, params)

    with pytest.raises(
        (TypeError, ValueError), match=r"static_args=\(\"penalty\", \"mask\", \"groups\", \"corrected\"\)"
    ):
        optax.inject_hyperparams(jaxreg.proximal_l1)(0.2, 0.3, mask=mask).init(parameters())


# Words

L1 = jaxreg.l1(0.1)
NUMBER = "must be a non-negative number. Got"
BAD = [
    (
        lambda: jaxreg.proximal(0.1, 0.1),
        TypeError,
        "The 'penalty' parameter of proximal must be a jaxreg.Penalty",
    ),
    (
        lambda: jaxreg.proximal(L1, -1),
        ValueError,
        f"The 'learning_rate' parameter of proximal {NUMBER} -1.0.",
    ),
    (lambda: jaxreg.proximal(L1, np.inf), ValueError, f"'learning_rate' parameter of proximal {NUMBER} inf."),
    (lambda: jaxreg.proximal(L1, True), TypeError, f"of proximal {NUMBER} True of type bool."),
    (lambda: jaxreg.proximal(L1, jnp.ones(2)), TypeError, f"'learning_rate' parameter of proximal {NUMBER} "),
    (
        lambda: jaxreg.proximal(L1, 0.1, strength_schedule=0.5),
        TypeError,
        "The 'strength_schedule' parameter of proximal must be a schedule or None. Got 0.5.",
    ),
    (lambda: jaxreg.proximal_l1(-0.5, 0.1), ValueError, f"The 'strength' parameter of l1 {NUMBER} -0.5."),
    (lambda: jaxreg.proximal_l1(0.5, "0.1"), TypeError, f"of proximal {NUMBER} '0.1' of type str."),
    (
        lambda: jaxreg.proximal_group_lasso(np.nan, 0.1, groups.outputs()),
        ValueError,
        f"The 'strength' parameter of group_lasso {NUMBER} nan.",
    ),
    (
        lambda: jaxreg.proximal_group_lasso(0.1, 0.1, "outputs"),
        TypeError,
        "The 'groups' parameter of group_lasso must be a structure from jaxreg.groups, such as "
        "jaxreg.groups.outputs(). Got 'outputs'.",
    ),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD)
def test_bad_arguments(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


def test_a_schedule_that_goes_negative_is_caught_where_it_can_be():
    params, [grads] = parameters(), gradients(1)
    link = jaxreg.proximal(L1, lambda count: 0.1 - 0.2 * (count == 0))
    with pytest.raises(ValueError, match="'learning_rate' parameter of proximal must be a non-negative"):
        link.update(grads, link.init(params), params)


def test_what_does_not_fit_is_refused_at_init():
    params = parameters()
    with pytest.raises(ValueError, match=r"'layer/bias' has shape \(3,\).*mask=jaxreg.masks.weights\."):
        jaxreg.proximal_group_lasso(0.1, 0.1, groups.outputs()).init(params)
    with pytest.raises(ValueError, match="'strength' has an entry 'head' that is above no leaf"):
        jaxreg.proximal_l1({"layer": 0.1, "head": 0.1}, 0.1).init(params)
    with pytest.raises(ValueError, match="'strength' has no entry for the leaf 'layer/bias'"):
        jaxreg.proximal_l1({"layer": {"kernel": 0.1}}, 0.1).init(params)


def test_a_tree_without_floats_is_left_alone():
    for params in ({}, {"steps": jnp.arange(3)}):
        link = jaxreg.proximal_l1(0.1, 0.1, mask=masks.weights)
        updates, _ = link.update(params, link.init(params), params)
        assert_same_bits(updates, params)
