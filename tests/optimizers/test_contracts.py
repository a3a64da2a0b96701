"""What optimizers promise beyond optax's contract: step, step sizes, state."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, assert_same_bits, gradients, parameters, train
from registry import TRANSFORMS

import jaxreg
from jaxreg import groups, masks

L1 = jaxreg.l1(0.1)

# step

OPTAX = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "adamw": optax.adamw(0.1, mask=masks.weights),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1)),
    "without extra arguments": optax.GradientTransformation(*optax.scale(-0.1)),
}
OPTIMIZERS = {case.name: case.make for case in TRANSFORMS} | {
    name: lambda optimizer=optimizer: optimizer for name, optimizer in OPTAX.items()
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_is_update_and_apply_updates(name):
    optimizer, grads = OPTIMIZERS[name](), gradients()
    expected, expected_state = train(optimizer, grads, parameters(), jax.jit)
    params = parameters()
    state = optimizer.init(params)
    chex.clear_trace_counter()
    step = jax.jit(
        chex.assert_max_traces(lambda g, s, p: jaxreg.step(optimizer, g, s, p), n=1), donate_argnums=(1, 2)
    )
    for grad in grads:
        given = params
        params, state = step(grad, state, params)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert_close((params, state), (expected, expected_state), rtol=1e-5, atol=1e-6)


def test_step_passes_extra_arguments_on():
    params, [grads] = parameters(), gradients(1)
    for optimizer in (
        optax.polyak_sgd(),
        jaxreg.proximal_optimizer(optax.polyak_sgd(), L1, 0.1),
        jaxreg.freeze_zeros(optax.polyak_sgd(), mask=masks.weights),
    ):
        state = optimizer.init(params)
        near, _ = jaxreg.step(optimizer, grads, state, params, value=0.01)
        far, _ = jaxreg.step(optimizer, grads, state, params, value=2.0)
        updates, _ = optimizer.update(grads, state, params, value=2.0)
        assert_close(far, optax.apply_updates(params, updates))
        assert np.any(near["layer"]["kernel"] != far["layer"]["kernel"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_step_gives_the_prox_itself(dtype):
    # No sum p + (z - p), whose rounding can lose a small weight.
    params, [grads] = parameters(dtype), gradients(1, dtype)
    penalty = jaxreg.group_lasso(0.3, groups.outputs(), mask=masks.weights)
    optimizer = jaxreg.proximal_optimizer(optax.sgd(0.1), penalty, 0.1)
    actual, _ = jaxreg.step(optimizer, grads, optimizer.init(params), params)
    updates, _ = optax.sgd(0.1).update(grads, optax.sgd(0.1).init(params))
    wide = jax.tree.map(lambda p, u: p.astype(jnp.float32) + u.astype(jnp.float32), params, updates)
    expected = penalty.prox(wide, 0.1)["layer"]["kernel"].astype(dtype)
    assert_same_bits(actual["layer"]["kernel"], expected)


def test_step_keeps_integers_and_holes():
    params = {"w": jnp.ones(2), "n": jnp.arange(2), "hole": None, "out": optax.MaskedNode()}
    grads = {"w": jnp.ones(2), "n": jnp.zeros(2, jnp.int32), "hole": None, "out": optax.MaskedNode()}
    optimizer = jaxreg.prox_sgd(0.1, L1)
    new, _ = jaxreg.step(optimizer, grads, optimizer.init(params), params)
    chex.assert_trees_all_equal_structs(new, params)
    assert_same_bits(new["n"], params["n"])
    np.testing.assert_allclose(new["w"], 0.89, rtol=1e-6)


def test_step_needs_params():
    for optimizer in (jaxreg.prox_sgd(0.1, L1), jaxreg.freeze_zeros(optax.sgd(0.1))):
        grads = parameters()
        with pytest.raises(ValueError, match="not passing `params` when calling `update`"):
            jaxreg.step(optimizer, grads, optimizer.init(grads), None)


# State


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (jaxreg.prox_sgd(0.1, L1), optax.sgd(0.1)),
        (jaxreg.prox_sgd(0.1, L1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
        (jaxreg.prox_adam(0.1, L1), optax.adam(0.1)),
        (jaxreg.proximal_optimizer(optax.lion(0.1), L1, 0.1), optax.lion(0.1)),
    ],
    ids=["prox_sgd", "prox_sgd[momentum]", "prox_adam", "proximal_optimizer"],
)
def test_the_state_is_the_optimizers_and_a_count(ours, theirs):
    params = parameters()
    assert size(ours.init(params)) == size(theirs.init(params)) + 4
    _, state = train(ours, gradients(), params, jax.jit)
    _, expected = train(theirs, gradients(), params, jax.jit)
    assert state.count == 3
    chex.assert_trees_all_equal_structs(state.inner, expected)


# Step sizes


def test_step_sizes_from_a_number_a_schedule_and_the_state_after_the_update():
    rates = jnp.array([0.3, 0.1, 0.2])

    def counted(state):
        # The schedule's count is 1 after the first update.
        return rates[state[-1].count - 1]

    params, grads = parameters(), gradients()
    inner = optax.sgd(lambda count: rates[count], momentum=0.5)
    assert hasattr(inner.init(params)[-1], "count")
    scheduled, _ = train(
        jaxreg.proximal_optimizer(inner, L1, lambda count: 2 * rates[count]), grads, params, jax.jit
    )
    from_state, _ = train(
        jaxreg.proximal_optimizer(inner, L1, lambda state: 2 * counted(state)), grads, params, jax.jit
    )
    assert_close(from_state, scheduled)
    assert_close(
        train(jaxreg.prox_sgd(lambda count: rates[count], L1, momentum=0.5), grads, params, jax.jit)[0],
        scheduled,
    )
    state = inner.init(params)
    for index, grad in enumerate(grads):
        updates, state = inner.update(grad, state, params)
        params = L1.prox(optax.apply_updates(params, updates), 2 * rates[index])
    assert_close(scheduled, params, rtol=1e-5, atol=1e-6)


def squares(state):
    return state[0].nu


def squares_found(state):
    return optax.tree.get(state, "nu")


@pytest.mark.parametrize("find", [squares, squares_found])
def test_step_sizes_may_be_one_per_element(find):
    def gain(state):
        return jax.tree.map(lambda nu: 0.1 / jnp.sqrt(nu + 1e-8), find(state))

    params, [grads] = parameters(), gradients(1)
    optimizer = jaxreg.proximal_optimizer(optax.rmsprop(0.1), L1, gain)
    actual, _ = train(optimizer, [grads], params, jax.jit)
    updates, _ = optax.rmsprop(0.1).update(grads, optax.rmsprop(0.1).init(params), params)
    moved = optax.apply_updates(params, updates)
    steps = jax.tree.map(lambda g: 0.1 / jnp.sqrt(0.1 * g**2 + 1e-8), grads)
    assert_close(actual, L1.prox(moved, steps), rtol=1e-5, atol=1e-6)


def test_prox_adam_step_sizes_are_those_of_its_schedule():
    # From w = 0 and with a constant gradient g, Adam moves by -eta sign(g) and the prox gives
    # eta (1 - strength / |g|) of it back.
    rates = jnp.array([0.3, 0.1])
    grads = jnp.array([2.0, -0.5, 0.25])
    optimizer = jaxreg.prox_adam(lambda count: rates[count], jaxreg.l1(0.25))
    actual, _ = train(optimizer, [grads, grads], jnp.zeros(3), jax.jit)
    expected = -jnp.sign(grads) * (1 - 0.25 / jnp.abs(grads)) * rates.sum()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-7)


def test_an_eager_schedule_is_not_taken_for_a_function_of_the_state():
    calls = []

    def schedule(count):
        calls.append(jnp.shape(count))
        return 0.1

    optimizer = jaxreg.proximal_optimizer(optax.adam(0.1), L1, schedule)
    train(optimizer, gradients(1), parameters())
    assert calls
    assert set(calls) == {()}


# Words


@dataclasses.dataclass
class NoUpdate:
    init: object = len


NUMBER = "must be a non-negative number. Got"
BAD = [
    (lambda: jaxreg.prox_sgd(-0.1, L1), ValueError, f"'learning_rate' parameter of prox_sgd {NUMBER} -0.1."),
    (lambda: jaxreg.prox_sgd(np.nan, L1), ValueError, f"'learning_rate' parameter of prox_sgd {NUMBER} nan."),
    (lambda: jaxreg.prox_sgd("a", L1), TypeError, f"of prox_sgd {NUMBER} 'a' of type str."),
    (
        lambda: jaxreg.prox_sgd(0.1, L1, momentum=1),
        ValueError,
        "The 'momentum' parameter of prox_sgd must be a number in [0, 1). Got 1.0.",
    ),
    (
        lambda: jaxreg.prox_sgd(0.1, L1, momentum=-0.5),
        ValueError,
        "The 'momentum' parameter of prox_sgd must be a number in [0, 1). Got -0.5.",
    ),
    (
        lambda: jaxreg.prox_sgd(0.1, L1, momentum=True),
        TypeError,
        "The 'momentum' parameter of prox_sgd must be a number in [0, 1). Got True of type bool.",
    ),
    (
        lambda: jaxreg.prox_sgd(0.1, 0.1),
        TypeError,
        "must be a jaxreg.Penalty, such as jaxreg.l1(1e-4). Got 0.1.",
    ),
    (
        lambda: jaxreg.prox_adam(np.inf, L1),
        ValueError,
        f"The 'learning_rate' parameter of prox_adam {NUMBER} inf.",
    ),
    (
        lambda: jaxreg.prox_adam(0.1, "l1"),
        TypeError,
        "must be a jaxreg.Penalty, such as jaxreg.l1(1e-4). Got 'l1'.",
    ),
    (
        lambda: jaxreg.proximal_optimizer(optax.sgd, L1, 0.1),
        TypeError,
        "The 'optimizer' parameter of proximal_optimizer must be an optax optimizer. Got <function sgd",
    ),
    (
        lambda: jaxreg.proximal_optimizer(NoUpdate(), L1, 0.1),
        TypeError,
        "The 'optimizer' parameter of proximal_optimizer must be an optax optimizer. Got NoUpdate",
    ),
    (
        lambda: jaxreg.proximal_optimizer(optax.sgd(0.1), optax.sgd(0.1), 0.1),
        TypeError,
        "The 'penalty' parameter of proximal_optimizer must be a jaxreg.Penalty",
    ),
    (
        lambda: jaxreg.proximal_optimizer(optax.sgd(0.1), L1, -0.1),
        ValueError,
        f"The 'step_size' parameter of proximal_optimizer {NUMBER} -0.1.",
    ),
    (
        lambda: jaxreg.proximal_optimizer(optax.sgd(0.1), L1, None),
        TypeError,
        f"The 'step_size' parameter of proximal_optimizer {NUMBER} None of type NoneType.",
    ),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD)
def test_bad_arguments(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


def test_step_sizes_that_do_not_fit_name_the_leaf():
    params, [grads] = parameters(), gradients(1)
    for gain, words in (
        (lambda state: {"layer": {"kernel": jnp.ones(2), "bias": 0.1}}, "leaf 'layer/kernel' of shape"),
        (
            lambda state: {"layer": {"kernel": jnp.ones(3)}},
            "'step_size' has no entry for the leaf 'layer/bias'",
        ),
        (lambda state: {"layer": 0.1, "head": 0.1}, "'step_size' has an entry 'head' that is above no leaf"),
    ):
        optimizer = jaxreg.proximal_optimizer(optax.sgd(0.1), L1, gain)
        with pytest.raises(ValueError, match=words):
            optimizer.update(grads, optimizer.init(params), params)


def test_what_does_not_fit_is_refused_at_init():
    penalty = jaxreg.group_lasso(0.1, groups.outputs())
    for optimizer in (jaxreg.prox_sgd(0.1, penalty), jaxreg.prox_adam(0.1, penalty)):
        with pytest.raises(ValueError, match=r"'layer/bias' .*mask=jaxreg.masks.weights\."):
            optimizer.init(parameters())
