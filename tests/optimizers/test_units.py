"""What the documentation says of units: means and sums, batches, devices, clipping, what follows the prox."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from convex_problems import cancer, diabetes
from sklearn import linear_model

import jaxreg

pytestmark = pytest.mark.usefixtures("x64")

STRENGTH = 0.05
PENALTY = jaxreg.l1(STRENGTH)


@functools.cache
def lasso(strength):
    model = linear_model.Lasso(alpha=strength, fit_intercept=False, tol=1e-14, max_iter=100_000)
    return model.fit(*diabetes()).coef_


def mean_loss(w, rows=slice(None)):
    x, y = diabetes()
    return jnp.mean((jnp.asarray(x)[rows] @ w - jnp.asarray(y)[rows]) ** 2) / 2


def converge(optimizer, slope, steps, start=None, inputs=None):
    def body(carry, given):
        w, state = carry
        grads = slope(w) if given is None else slope(w, given)
        return jaxreg.step(optimizer, grads, state, w), None

    w = jnp.zeros(10) if start is None else start
    run = jax.jit(lambda carry: jax.lax.scan(body, carry, inputs, length=steps)[0])
    return np.asarray(run((w, optimizer.init(w)))[0])


# Means and sums


def test_the_strength_of_a_sum_is_n_times_that_of_a_mean():
    n = len(diabetes()[1])
    summed = converge(
        jaxreg.prox_sgd(0.02 / n, jaxreg.l1(n * STRENGTH), momentum=0.9),
        jax.grad(lambda w: n * mean_loss(w)),
        4_000,
    )
    np.testing.assert_allclose(summed, lasso(STRENGTH), atol=1e-10)
    adam = converge(
        jaxreg.prox_adam(0.01, jaxreg.l1(n * STRENGTH)), jax.grad(lambda w: n * mean_loss(w)), 6_000
    )
    np.testing.assert_allclose(adam, lasso(STRENGTH), atol=1e-10)


def test_c_of_scikit_learn_is_one_over_n_times_strength():
    x, y = cancer()
    model = linear_model.LogisticRegression(
        C=1 / (len(y) * STRENGTH), l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-12
    )
    expected = model.set_params(max_iter=100_000).fit(x, y).coef_[0]
    slope = jax.grad(lambda w: jnp.mean(jnp.logaddexp(0.0, -y * (x @ w))))
    found = converge(jaxreg.prox_sgd(0.1, PENALTY, momentum=0.9), slope, 20_000, jnp.zeros(30))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found == 0, expected == 0)


def test_l2_is_half_of_a_coupled_weight_decay():
    decay, w = 0.2, jnp.array([1.0, -2.0])
    # torch.optim adds weight_decay * w to the gradient.
    np.testing.assert_allclose(jax.grad(jaxreg.l2(decay / 2))(w), decay * w)


# Batches and devices


def test_minibatches_do_not_change_the_unit():
    epochs, batch = 4_000, 34
    n = len(diabetes()[1]) // batch * batch
    rng = np.random.default_rng(0)
    order = np.stack([rng.permutation(n) for _ in range(epochs)]).reshape(-1, batch)
    rate = optax.polynomial_schedule(0.05, 0.0, 2.0, len(order))
    found = converge(jaxreg.prox_sgd(rate, PENALTY), jax.grad(mean_loss), None, inputs=order)
    x, y = diabetes()
    same = linear_model.Lasso(alpha=STRENGTH, fit_intercept=False, tol=1e-14, max_iter=100_000)
    expected = same.fit(x[:n], y[:n]).coef_
    np.testing.assert_allclose(found, expected, atol=2e-3)
    other = linear_model.Lasso(alpha=STRENGTH / batch, fit_intercept=False).fit(x[:n], y[:n]).coef_
    assert np.abs(found - other).max() > 0.1


def test_accumulated_gradients_are_means():
    order = np.arange(440).reshape(4, 110)
    slopes = jax.grad(mean_loss)
    optimizer = optax.MultiSteps(jaxreg.prox_sgd(0.02, PENALTY, momentum=0.9), every_k_schedule=4)
    inputs = np.tile(order, (4_000, 1))
    found = converge(optimizer, slopes, None, inputs=inputs)
    whole = jax.grad(lambda w: mean_loss(w, slice(0, 440)))
    expected = converge(jaxreg.prox_sgd(0.02, PENALTY, momentum=0.9), whole, 4_000)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize(("reduce", "factor"), [(jax.lax.pmean, 1), (jax.lax.psum, 4)])
def test_gradients_of_several_devices(reduce, factor):
    """A sum over 4 devices of gradients of means needs 4 times the strength, their mean does not."""
    shares = np.arange(440).reshape(4, 110)

    def slope(w):
        per_device = lambda rows: reduce(jax.grad(mean_loss)(w, rows), "devices")  # noqa: E731
        return jax.vmap(per_device, axis_name="devices")(shares)[0]

    whole = jax.grad(lambda w: mean_loss(w, slice(0, 440)))
    expected = converge(jaxreg.prox_sgd(0.1, PENALTY), whole, 3_000)
    optimizer = jaxreg.prox_sgd(0.1 / factor, jaxreg.l1(factor * STRENGTH))
    np.testing.assert_allclose(converge(optimizer, slope, 3_000), expected, atol=1e-10)


# Clipping by the global norm

LOSS_UNITS = {
    "prox_sgd": jaxreg.prox_sgd(0.02, PENALTY, momentum=0.9),
    "prox_adam": jaxreg.prox_adam(0.01, PENALTY),
    "prox_rmsprop": jaxreg.prox_rmsprop(0.003, PENALTY),
}
FAR = np.linspace(-3.0, 3.0, 10)


def slope_norm(w):
    return float(jnp.linalg.norm(jax.grad(mean_loss)(jnp.asarray(w))))


@pytest.mark.parametrize("name", LOSS_UNITS)
@pytest.mark.parametrize("bound", [1.0, 0.14, 0.12, 0.09])
def test_clipping_stops_at_the_strength_over_its_factor(name, bound):
    optimizer = optax.chain(optax.clip_by_global_norm(bound), LOSS_UNITS[name])
    found = converge(optimizer, jax.grad(mean_loss), 20_000, jnp.asarray(FAR))
    assert slope_norm(FAR) > bound  # it clips at first
    norm = slope_norm(lasso(STRENGTH))  # of the loss alone: not 0 at a minimiser of loss + penalty
    assert 0.12 < norm < 0.14
    factor = min(1.0, bound / slope_norm(found))
    np.testing.assert_allclose(found, lasso(STRENGTH / factor), atol=1e-10)
    np.testing.assert_array_equal(found == 0, lasso(STRENGTH / factor) == 0)
    if bound > norm:
        assert factor == 1.0
    else:
        assert np.abs(found - lasso(STRENGTH)).max() > 0.03
        # All that live have a clipped slope of the strength's size, and there is no more than the bound.
        assert np.sum(found != 0) * STRENGTH**2 <= bound**2
    assert np.all(found == 0) if bound == 0.09 else 0 < np.sum(found == 0) < len(found)


def test_a_bound_of_strength_times_root_of_size_never_clips_at_a_minimiser():
    for strength in (0.01, 0.05, 0.2, 0.5):
        assert slope_norm(lasso(strength)) <= strength * np.sqrt(10) * (1 + 1e-9)


# What follows the prox


@pytest.mark.parametrize(
    "after",
    [optax.scale(0.9), optax.clip_by_global_norm(1e-3), optax.add_decayed_weights(-1e-3), optax.ema(0.5)],
    ids=["scale", "clip_by_global_norm", "add_decayed_weights", "ema"],
)
def test_a_link_after_the_prox_destroys_zeros_and_one_before_does_not(after):
    slope, start = jax.grad(mean_loss), jnp.asarray(FAR)
    proximal = jaxreg.prox_sgd(0.2, jaxreg.l1(0.5))
    before = converge(optax.chain(after, proximal), slope, 6, start)
    behind = converge(optax.chain(proximal, after), slope, 6, start)
    assert np.sum(before == 0) >= 2
    assert not np.any(behind == 0)


# Hyperparameters that are injected


def test_an_injected_strength_and_rate_are_in_the_unit_of_the_loss():
    def build(learning_rate, strength):
        return jaxreg.prox_sgd(learning_rate, jaxreg.l1(strength), momentum=0.9)

    ramp = optax.linear_schedule(0.0, STRENGTH, 1_000)
    optimizer = optax.inject_hyperparams(build)(0.02, ramp)
    np.testing.assert_allclose(converge(optimizer, jax.grad(mean_loss), 4_000), lasso(STRENGTH), atol=1e-8)


# A prox with the learning rate, behind optimizers whose step is another


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.1, 2.0])
def test_behind_adam_a_plain_prox_loses_below_one_and_wins_above(strength):
    """Whatever the scale of the loss: with 20 times the loss, the lasso keeps weights at all of these."""
    rate = optax.cosine_decay_schedule(0.01, 20_000)
    optimizer = optax.chain(optax.adam(rate), jaxreg.proximal(jaxreg.l1(strength), rate))
    found = converge(optimizer, jax.grad(lambda w: 20 * mean_loss(w)), 20_000)
    without = np.linalg.lstsq(*diabetes(), rcond=None)[0]
    assert np.sum(lasso(strength / 20) != 0) > 0
    if strength < 1:
        np.testing.assert_allclose(found, without, atol=0.005)
    else:
        assert not found.any()
