"""The prox_* family: optax's own optimizers, followed by a prox in the step sizes they really take."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, gradients, parameters, train

import jaxreg
from jaxreg import masks

L1 = jaxreg.l1(0.1)
TWINS = {
    "prox_sgd": optax.sgd,
    "prox_adam": optax.adam,
    "prox_adamw": optax.adamw,
    "prox_nadam": optax.nadam,
    "prox_amsgrad": optax.amsgrad,
    "prox_adabelief": optax.adabelief,
    "prox_rmsprop": optax.rmsprop,
    "prox_adagrad": optax.adagrad,
    "prox_lion": optax.lion,
    "prox_muon": optax.contrib.muon,
}
OWN = {
    "prox_sgd": ["damped"],
    # Not in every version of optax.
    "prox_amsgrad": ["bias_correction_mu", "bias_correction_nu"],
    "prox_muon": [
        "preconditioning",
        "adam_learning_rate",
        "muon_weight_dimension_numbers",
        "consistent_rms",
    ],
}
OPTIONS = [
    ("prox_sgd", {}),
    ("prox_sgd", {"momentum": 0.9}),
    ("prox_sgd", {"momentum": 0.9, "nesterov": True, "accumulator_dtype": jnp.bfloat16}),
    ("prox_adam", {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-4}),
    ("prox_adam", {"nesterov": True, "mu_dtype": jnp.bfloat16}),
    ("prox_adamw", {"weight_decay": 0.1, "mask": masks.weights, "eps_root": 1e-4}),
    ("prox_nadam", {}),
    ("prox_amsgrad", {"b2": 0.5}),
    ("prox_adabelief", {"eps": 1e-3}),
    ("prox_adabelief", {"eps": 1e-3, "nesterov": True}),
    ("prox_rmsprop", {}),
    ("prox_rmsprop", {"momentum": 0.9, "eps_in_sqrt": False, "initial_scale": 0.1}),
    ("prox_rmsprop", {"momentum": 0.9, "nesterov": True, "bias_correction": True}),
    ("prox_rmsprop", {"centered": True, "eps": 1e-2}),
    ("prox_rmsprop", {"centered": True, "eps": 1e-2, "bias_correction": True}),
    ("prox_adagrad", {"initial_accumulator_value": 0.5}),
    ("prox_lion", {"weight_decay": 0.1}),
    ("prox_muon", {"weight_decay": 0.1, "ns_steps": 3}),
]
options = pytest.mark.parametrize(
    ("name", "given"), OPTIONS, ids=[f"{name}[{', '.join(given)}]" for name, given in OPTIONS]
)
IN_LOSS_UNITS = [(name, given) for name, given in OPTIONS if name not in ("prox_lion", "prox_muon")]


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", sorted(TWINS))
def test_signatures_are_optaxs_with_the_penalty_after_the_learning_rate(name):
    ours = list(inspect.signature(getattr(jaxreg, name)).parameters.values())
    theirs = list(inspect.signature(TWINS[name]).parameters.values())
    assert [ours[0].name, ours[1].name] == ["learning_rate", "penalty"]
    shared = [(p.name, p.default, p.kind) for p in [ours[0], *ours[2:]] if p.name not in OWN.get(name, ())]
    assert shared == [(p.name, p.default, p.kind) for p in theirs if p.name not in OWN.get(name, ())]


@options
def test_without_a_penalty_it_is_optaxs_optimizer_with_its_state(name, given):
    ours, theirs = getattr(jaxreg, name)(0.05, jaxreg.l1(0.0), **given), TWINS[name](0.05, **given)
    (params, state), (expected, their_state) = (
        train(optimizer, gradients(), parameters(), jax.jit) for optimizer in (ours, theirs)
    )
    assert_close(params, expected, rtol=1e-5, atol=1e-6)
    # No buffer beyond the inner optimizer's: a count is all that is added.
    assert size(state) == size(their_state) + state.count.nbytes
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(their_state)) + 1


def last_move(optimizer, gradient):
    """What the last of many updates with one and the same gradient adds to the parameters."""
    params = jax.tree.map(lambda g: 50.0 + 0 * g, gradient)
    state = optimizer.init(params)

    def update(carry, _):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), updates

    _, updates = jax.jit(lambda carry: jax.lax.scan(update, carry, None, length=300))((params, state))
    return np.array([updates[key][-1] for key in "abc"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rate", [0.01, optax.exponential_decay(0.01, 1, 0.99)], ids=["constant", "decaying"])
@pytest.mark.parametrize(
    ("name", "given"), IN_LOSS_UNITS, ids=[f"{name}[{', '.join(given)}]" for name, given in IN_LOSS_UNITS]
)
def test_a_gradient_that_balances_the_penalty_moves_nothing(name, given, rate):
    """Only with the true step size, the update per unit of constant gradient, do the two cancel."""
    exact = {key: value for key, value in given.items() if not key.endswith("_dtype")}
    if "weight_decay" in exact:
        exact |= {"weight_decay": 0.0, "mask": None}
    strength = {"a": 0.3, "b": 0.02, "c": 4.0}
    gradient = jax.tree.map(lambda s: -jnp.float64(s), strength)
    make = getattr(jaxreg, name)
    balanced = last_move(make(rate, jaxreg.l1(strength), **exact), gradient)
    alone = last_move(make(rate, jaxreg.l1(0.0), **exact), gradient)
    assert np.all(alone > 1e-6)
    np.testing.assert_allclose(balanced / alone, 0.0, atol=1e-6)


def test_damping_is_a_smaller_rate_and_keeps_the_step_of_the_prox():
    grads = gradients()
    damped, _ = train(jaxreg.prox_sgd(0.1, L1, momentum=0.9, damped=True), grads, parameters())
    trace, params = jax.tree.map(jnp.zeros_like, parameters()), parameters()
    for grad in grads:
        trace = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, trace, grad)
        params = L1.prox(jax.tree.map(lambda p, m: p - 0.1 * m, params, trace), 0.1)
    assert_close(damped, params, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'damped' parameter of prox_sgd needs a momentum to damp"):
        jaxreg.prox_sgd(0.1, L1, damped=True)
    for make in (jaxreg.prox_sgd, jaxreg.prox_rmsprop, jaxreg.linbreg):
        with pytest.raises(ValueError, match=f"'nesterov' parameter of {make.__name__} needs a momentum"):
            make(0.1, L1, nesterov=True)


@options
def test_inject_hyperparams_takes_the_functions_themselves(name, given):
    factory = getattr(jaxreg, name)
    static = {"penalty", "mask", "mu_dtype", "accumulator_dtype"} & set(inspect.signature(factory).parameters)
    injected = optax.inject_hyperparams(factory, static_args=static)(learning_rate=0.05, penalty=L1, **given)
    plain = getattr(jaxreg, name)(0.05, L1, **given)
    actual, state = train(injected, gradients(), parameters(), jax.jit)
    expected, _ = train(plain, gradients(), parameters(), jax.jit)
    coarse = any(option.endswith("_dtype") for option in given)
    assert_close(actual, expected, rtol=1e-4, atol=1e-3 if coarse else 1e-5)
    chex.assert_trees_all_close(state.hyperparams["learning_rate"], 0.05)


@pytest.mark.parametrize("name", sorted(TWINS))
def test_bad_arguments_are_named(name):
    make = getattr(jaxreg, name)
    with pytest.raises(ValueError, match=rf"'learning_rate' parameter of {name} must be .* Got -1\.0\."):
        make(-1.0, L1)
    with pytest.raises(TypeError, match=rf"'penalty' parameter of {name} must be a jaxreg.Penalty"):
        make(0.1, 0.5)
    bad = {"b1": 1.0, "b2": 1.0, "decay": 1.0, "momentum": 1.5, "eps": -1.0, "eps_root": -1.0}
    bad |= {"initial_scale": -1.0, "initial_accumulator_value": -0.5, "weight_decay": -0.1}
    for option in set(inspect.signature(make).parameters) & set(bad):
        words = rf"'{option}' parameter of {name} must be .* Got {bad[option]}\."
        with pytest.raises(ValueError, match=words):
            make(0.1, L1, **{option: bad[option]})
    for flag in set(inspect.signature(make).parameters) & {"nesterov", "centered", "eps_in_sqrt", "damped"}:
        with pytest.raises(TypeError, match=rf"'{flag}' parameter of {name} must be True or False"):
            make(0.1, L1, **{flag: 0.5})
