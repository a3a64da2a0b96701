"""Zeros under noise: dual averaging finds the support of the minimiser, proximal SGD does not.

The property for which these optimizers were made, on least squares with minibatches of 8.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import linear_model

import jaxreg
from jaxreg import groups

SAMPLES, FEATURES, TARGETS, BATCH, STEPS, LAST = 400, 40, 2, 8, 3_000, 500
STRENGTH = 0.3


@functools.cache
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, FEATURES))
    w = np.zeros((FEATURES, TARGETS))
    w[:6] = rng.choice([-1, 1], size=(6, TARGETS)) * rng.uniform(1.0, 2.0, size=(6, TARGETS))
    return x, x @ w + rng.normal(size=(SAMPLES, TARGETS))


@functools.cache
def supports():
    """What is not zero in the minimisers that scikit-learn finds."""
    x, y = data()
    lasso = linear_model.Lasso(alpha=STRENGTH, fit_intercept=False, tol=1e-10).fit(x, y)
    rows = linear_model.MultiTaskLasso(alpha=STRENGTH, fit_intercept=False, tol=1e-10).fit(x, y)
    return {"l1": lasso.coef_.T != 0, "group_lasso": rows.coef_.T != 0}


PENALTIES = {
    "l1": jaxreg.l1(STRENGTH),
    "group_lasso": jaxreg.group_lasso(STRENGTH, groups.inputs(), size_weights=False),
}


def late_supports(optimizer, last=None):
    """Whether each weight is alive, at each of the last steps, for each of three orders of the data."""
    x, y = (jnp.asarray(array, jnp.float32) for array in data())

    def loss(w, batch):
        return jnp.mean(jnp.sum((x[batch] @ w - y[batch]) ** 2, axis=1)) / 2

    def step(carry, key):
        w, state = carry
        batch = jax.random.randint(key, (BATCH,), 0, SAMPLES)
        grads = jax.grad(loss)(w, batch)
        carry = jaxreg.step(optimizer, grads, state, w)
        shown = carry[0] if last is None else jaxreg.step(last, grads, state, w)[0]
        return carry, shown != 0

    def train(key):
        w = jnp.zeros((FEATURES, TARGETS))
        return jax.lax.scan(step, (w, optimizer.init(w)), jax.random.split(key, STEPS))[1][-LAST:]

    return np.asarray(jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 3)))


IDENTIFY = {
    "ftrl": lambda p: jaxreg.ftrl(0.5, p, cumulative=True),
    "ftrl[published]": lambda p: jaxreg.ftrl(0.5, p.scale(STEPS)),
    "rda": lambda p: jaxreg.rda(0.2, p),
    "rmda": lambda p: jaxreg.rda(0.02, p, weight_power=0.5),
    "ramda": lambda p: jaxreg.ramda(0.02, p, momentum=0.0),
}
DO_NOT = {
    "constant": 0.02,
    "1 / sqrt(t)": lambda count: 0.1 / jnp.sqrt(count + 1.0),
    "1 / t": lambda count: 1 / (count + 10.0),
    "to 0": optax.cosine_decay_schedule(0.05, STEPS),
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", IDENTIFY)
def test_late_iterates_have_the_support_of_the_minimiser(name, penalty):
    alive, support = late_supports(IDENTIFY[name](PENALTIES[penalty])), supports()[penalty]
    assert 10 <= support.sum() <= 14
    assert np.mean(np.all(alive == support, axis=(2, 3))) == 1.0


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", DO_NOT)
def test_late_iterates_of_proximal_sgd_do_not(name, penalty):
    alive, support = late_supports(jaxreg.prox_sgd(DO_NOT[name], PENALTIES[penalty])), supports()[penalty]
    assert np.mean(np.all(alive == support, axis=(2, 3))) < 0.05
    assert alive.mean() > 2 * support.mean()


def test_with_momentum_the_last_step_without_it_has_the_support():
    penalty, support = PENALTIES["l1"], supports()["l1"]
    for make in (
        lambda mu: jaxreg.rda(0.02, penalty, weight_power=0.5, momentum=mu),
        lambda mu: jaxreg.ramda(0.02, penalty, momentum=mu),
    ):
        alive = late_supports(make(0.9), last=make(0.0))
        assert np.mean(np.all(alive == support, axis=(2, 3))) == 1.0
