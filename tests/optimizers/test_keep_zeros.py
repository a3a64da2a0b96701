"""Averages of sparse weights are dense; two ways back to zeros."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from helpers import assert_same_bits, gradients, parameters
from sklearn import linear_model

import jaxreg
from jaxreg import groups, masks

STRENGTH, RATE, MOMENTUM = 0.05, 0.005, 0.9
PENALTY = jaxreg.l1(STRENGTH)
STEPS, BATCH, SAMPLES, FEATURES = 3000, 32, 2000, 60
BURN_IN = STEPS // 2


@functools.cache
def data():
    """Sixty features, of which ten matter."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, FEATURES))
    y = x[:, :10] @ rng.normal(size=10) + 0.5 * rng.normal(size=SAMPLES)
    batches = rng.integers(0, SAMPLES, size=(STEPS, BATCH))
    return x.astype(np.float32), y.astype(np.float32), batches


def loss(w, batch=slice(None)):
    x, y = map(jnp.asarray, data()[:2])
    return jnp.mean((x[batch] @ w - y[batch]) ** 2) / 2


def objective(w):
    return loss(w) + PENALTY(w)


def zeros(w):
    return float(jaxreg.sparsity(w))


@functools.cache
def averaged(kind):
    """Weights after training on small batches, and their averages of three kinds."""
    optimizer = OPTIMIZERS[kind]
    ema = optax.ema(0.99)

    def body(carry, inputs):
        w, state, ema_state, moving, mean = carry
        count, batch = inputs
        w, state = jaxreg.step(optimizer, jax.grad(loss)(w, batch), state, w)
        debiased, ema_state = ema.update(w, ema_state)
        moving = optax.incremental_update(w, moving, 0.01)
        # Stochastic weight averaging: the plain mean of all weights after a burn-in.
        mean = optax.incremental_update(w, mean, 1 / jnp.maximum(1, count - BURN_IN + 1))
        return (w, state, ema_state, moving, mean), debiased

    w = jnp.ones(FEATURES)
    carry = (w, optimizer.init(w), ema.init(w), w, w)
    run = jax.jit(lambda carry: jax.lax.scan(body, carry, (jnp.arange(STEPS), data()[2])))
    (w, state, _, moving, mean), debiased = run(carry)
    return w, state, {"ema": debiased[-1], "incremental_update": moving, "mean": mean}


OPTIMIZERS = {
    "prox_sgd": jaxreg.prox_sgd(RATE, PENALTY, momentum=MOMENTUM),
    "prox_adam": jaxreg.prox_adam(RATE, PENALTY),
}


def training_step_size(kind, state):
    if kind == "prox_sgd":
        return RATE / (1 - MOMENTUM)
    nu = optax.tree.bias_correction(optax.tree.get(state, "nu"), 0.999, STEPS)
    return RATE / (jnp.sqrt(nu) + 1e-8)


both = pytest.mark.parametrize("kind", list(OPTIMIZERS))
every_average = pytest.mark.parametrize("average", ["ema", "incremental_update", "mean"])


@both
@every_average
def test_an_average_loses_the_zeros_and_keep_zeros_gives_them_back(kind, average):
    w, _, averages = averaged(kind)
    assert zeros(w) > 0.6
    assert zeros(averages[average]) == 0
    kept = jaxreg.keep_zeros(averages[average], w)
    np.testing.assert_array_equal(kept != 0, w != 0)
    assert_same_bits(kept[w != 0], averages[average][w != 0])
    assert objective(kept) < objective(w)


@both
@every_average
def test_a_prox_in_the_step_size_of_the_training_finds_the_zeros_of_an_average(kind, average):
    w, state, averages = averaged(kind)
    step_size = training_step_size(kind, state)
    less, right, more = (PENALTY.prox(averages[average], c * step_size) for c in (0.1, 1.0, 10.0))
    assert zeros(less) < zeros(w) < zeros(right)  # noise moves some of the last weights off zero
    assert abs(zeros(right) - zeros(minimiser())) < 0.04
    assert objective(right) < min(objective(w), objective(less), objective(more))


@functools.cache
def minimiser():
    x, y, _ = data()
    return linear_model.Lasso(alpha=STRENGTH, fit_intercept=False, tol=1e-6).fit(x, y).coef_


# Other averages of optax


def test_lookahead_destroys_zeros_and_keep_zeros_gives_them_back():
    rng = np.random.default_rng(1)
    target = jnp.asarray(np.where(np.arange(20) < 5, 1.0, 0.02), jnp.float32)
    start = jnp.asarray(rng.normal(size=20), jnp.float32)
    fast = jaxreg.prox_sgd(0.5, jaxreg.l1(0.1))
    optimizer = optax.lookahead(fast, sync_period=6, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(start)
    state = optimizer.init(params)
    alone, alone_state = start, fast.init(start)
    update = jax.jit(optimizer.update)
    for _ in range(29):
        before = params.fast
        updates, state = update(params.fast - target, state, params)
        params = optax.apply_updates(params, updates)
        alone, alone_state = jaxreg.step(fast, alone - target, alone_state, alone)
    # One step before the next synchronisation.
    assert zeros(alone) == zeros(params.fast) == 0.75
    assert zeros(params.slow) == 0
    assert zeros(jaxreg.keep_zeros(params.slow, params.fast)) == 0.75
    updates, _ = update(params.fast - target, state, params)
    assert zeros(optax.apply_updates(params, updates).fast) == 0  # and the fast ones begin anew
    assert zeros(before) == 0.75


def test_schedule_free_destroys_zeros_and_a_prox_of_its_average_finds_them():
    optimizer = optax.contrib.schedule_free(jaxreg.prox_sgd(0.05, PENALTY), 0.05)

    def body(carry, batch):
        w, state = carry
        updates, state = optimizer.update(jax.grad(loss)(w, batch), state, w)
        return (optax.apply_updates(w, updates), state), None

    w = jnp.ones(FEATURES)
    w, state = jax.jit(lambda c: jax.lax.scan(body, c, data()[2])[0])((w, optimizer.init(w)))
    average = optax.contrib.schedule_free_eval_params(state, w)
    assert zeros(w) == zeros(state.z) == zeros(average) == 0
    assert zeros(PENALTY.prox(average, 0.05)) > 0.6


def test_any_average_of_updates_after_the_prox_destroys_zeros():
    optimizer = optax.chain(jaxreg.prox_sgd(0.05, PENALTY), optax.ema(0.9))

    def body(carry, _):
        w, state = carry
        updates, state = optimizer.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    w = jnp.ones(FEATURES)
    (w, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, None, length=300))((w, optimizer.init(w)))
    assert zeros(w) < 0.2


# keep_zeros itself


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64])
@pytest.mark.parametrize("like_dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_and_other_bits_are_kept(dtype, like_dtype):
    average = {"w": jnp.array([1.5, -0.0, jnp.nan, jnp.inf, 3.0], dtype)}
    like = {"w": jnp.array([1.0, 2.0, 1e-30, 0.0, -0.0], like_dtype)}
    kept = jax.jit(jaxreg.keep_zeros)(average, like)
    assert_same_bits(kept["w"][:3], average["w"][:3])
    assert_same_bits(kept["w"][3:], jnp.zeros(2, dtype))


def test_holes_integers_and_masked_out_leaves_are_the_same_objects():
    like = {
        "w": jnp.zeros(2),
        "b": jnp.zeros(2),
        "n": jnp.zeros(2, int),
        "hole": None,
        "out": optax.MaskedNode(),
    }
    params = {"w": jnp.ones(2), "b": jnp.ones(2), "n": jnp.arange(2), "hole": None, "out": optax.MaskedNode()}
    kept = jaxreg.keep_zeros(params, like, mask=masks.name("w"))
    assert not kept["w"].any()
    assert all(kept[name] is params[name] for name in ("b", "n", "hole", "out"))


def test_it_is_jitted_once_and_batched():
    params = parameters()
    averages = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients(3))
    keep = jax.jit(jax.vmap(jaxreg.keep_zeros, in_axes=(0, None)))
    kept = keep(averages, params)
    for index in range(3):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], (averages, kept))
        assert_same_bits(one[1], jaxreg.keep_zeros(one[0], params))
    keep(averages, jax.tree.map(lambda leaf: 2 * leaf, params))
    assert keep._cache_size() == 1


def test_whole_groups_come_back():
    like = {"kernel": jnp.ones((4, 3)).at[:, 1].set(0.0)}
    kept = jaxreg.keep_zeros({"kernel": jnp.full((4, 3), 0.5)}, like)
    assert jaxreg.sparsity(kept, groups.outputs()) == pytest.approx(1 / 3)


def test_trees_that_do_not_fit_are_refused():
    params = parameters()
    with pytest.raises(ValueError, match="'params' must have the tree structure of the parameters"):
        jaxreg.keep_zeros(params["layer"], params)
    with pytest.raises(
        ValueError, match=r"'params' must have the shapes of the parameters\. Got \(2,\) at 'w'"
    ):
        jaxreg.keep_zeros({"w": jnp.ones(2)}, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="The mask embeddings selects no leaf"):
        jaxreg.keep_zeros(params, params, mask=masks.embeddings)
    with pytest.raises(TypeError, match="The 'mask' parameter must be a mask"):
        jaxreg.keep_zeros(params, params, mask=1.0)
    chex.assert_trees_all_equal(params, parameters())
