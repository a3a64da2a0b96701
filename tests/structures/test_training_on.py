"""Training goes on: the small model from its sliced state, the large one with the dead units held at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxreg
from jaxreg import structures

DEAD = {"a": [1, 4, 5], "b": [0, 2]}
SIZES = (4, 7, 6, 3)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def apply(params, x):
    for name in "ab":
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["c"]["kernel"] + params["c"]["bias"]


def held(params):
    """The parameters with the dead units at zero, in what makes and in what reads them."""
    params = {name: dict(layer) for name, layer in params.items()}
    for (name, dead), reader in zip(DEAD.items(), "bc", strict=True):
        for leaf in ("kernel", "bias"):
            params[name][leaf] = params[name][leaf].at[..., jnp.array(dead)].set(0)
        params[reader]["kernel"] = params[reader]["kernel"].at[jnp.array(dead)].set(0)
    return params


def cut(params):
    kept = [np.arange(n) for n in SIZES]
    for place, dead in enumerate(DEAD.values(), 1):
        kept[place] = np.delete(kept[place], dead)
    return {
        name: {
            "kernel": np.asarray(params[name]["kernel"])[np.ix_(kept[place], kept[place + 1])],
            "bias": np.asarray(params[name]["bias"])[kept[place + 1]],
        }
        for place, name in enumerate("abc")
    }


PARAMS = held(
    {
        name: {"kernel": draw(place, SIZES[place], SIZES[place + 1]) / 2, "bias": draw(place + 5, n) / 4}
        for place, (name, n) in enumerate(zip("abc", SIZES[1:], strict=True))
    }
)
X, Y = draw(10, 16, 4), draw(11, 16, 3)
L1 = jaxreg.l1(1e-3)


def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def labels(params):
    return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)


OPTIMIZERS = {
    "adamw": optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2, mask=matrices)),
    "adadelta": optax.adadelta(1.0),
    "adan": optax.adan(1e-2),
    "apply_if_finite": optax.apply_if_finite(optax.amsgrad(1e-2), 3),
    "by labels": optax.multi_transform(
        {"matrix": optax.adam(1e-2), "vector": optax.sgd(1e-2, momentum=0.9)}, labels
    ),
    "ema": optax.chain(optax.rprop(1e-2), optax.ema(0.9)),
    "injected": optax.inject_hyperparams(optax.nadamw)(learning_rate=1e-2, mask=matrices),
    "mechanize": optax.contrib.mechanize(optax.adam(1e-2), s_init=0.1),
    "multi_steps": optax.MultiSteps(optax.adagrad(1e-2), 2).gradient_transformation(),
    "novograd": optax.novograd(1e-2),
    "prodigy": optax.contrib.prodigy(),
    "schedule_free": optax.contrib.schedule_free_adamw(1e-2),
    "adabreg": jaxreg.adabreg(1e-2, L1),
    "fista": jaxreg.fista(1e-2, L1),
    "freeze_zeros": jaxreg.freeze_zeros(optax.lion(1e-3)),
    "ramda": jaxreg.ramda(1e-2, L1),
}


@pytest.fixture(scope="module")
def graph():
    return structures.trace(apply, PARAMS, X)


def stepping(optimizer, function, hold=lambda params: params):
    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: jnp.mean((function(p, X) - Y) ** 2))(params)
        params, state = jaxreg.step(optimizer, grads, state, params)
        return hold(params), state

    def steps(*given):
        for _ in range(3):
            given = step(*given)
        return given

    return steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_small_model_goes_on_as_the_large_one_would(graph, name):
    optimizer = OPTIMIZERS[name]
    large = stepping(optimizer, apply, held)
    params, state = large(PARAMS, optimizer.init(PARAMS))
    small = jaxreg.compact(graph, params, opt_state=state)
    assert small.sizes["b/kernel"] == (4, 4)
    got, after = stepping(optimizer, small.apply)(small.params, small.opt_state)
    expected, _ = large(params, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, cut(expected))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, optimizer.init(small.params))
    assert any(
        np.abs(a - b).max() > 1e-6 for a, b in zip(*map(jax.tree.leaves, (got, small.params)), strict=True)
    )


def saturated(params, x):
    return jax.nn.sigmoid(x @ params["a"] + params["ab"]) @ params["b"] + params["bb"]


@pytest.fixture(scope="module")
def folding():
    params = {"a": draw(0, 4, 8), "ab": draw(1, 8), "b": 3 * draw(2, 8, 2), "bb": draw(3, 2)}
    params["a"], params["ab"] = params["a"].at[:, :4].set(0), params["ab"].at[:4].set(0)
    return structures.trace(saturated, params, X), params


@pytest.mark.parametrize(
    ("optimizer", "where"),
    [
        (jaxreg.linbreg(1e-4, L1), "'dual/bb'"),
        (jaxreg.adabreg(1e-4, L1), "'dual/bb'"),
        (jaxreg.rda(1e-4, L1), "'start/bb'"),
        (jaxreg.ftrl(1e-4, L1), "'z/bb'"),
        (jaxreg.fista(1e-4, L1), "'solution/bb'"),
        (optax.contrib.sam(optax.sgd(1e-4), optax.sgd(1e-4), sync_period=2), "'cache/bb'"),
        (optax.contrib.cocob(1e-4), "'2/init_particles/bb'"),
        (optax.contrib.schedule_free_sgd(1e-4), "'z/bb'"),
        (optax.contrib.mechanize(optax.sgd(1e-4)), "'x0/bb'"),
    ],
    ids="linbreg adabreg rda ftrl fista sam cocob schedule_free mechanize".split(),
)
def test_a_constant_is_not_folded_beside_a_state_that_holds_parameters(folding, optimizer, where):
    graph, params = folding
    with pytest.raises(
        ValueError, match=rf"folded into 'bb', and .*{where} of 'opt_state' .*optimizer\.init"
    ):
        jaxreg.compact(graph, params, opt_state=optimizer.init(params))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(1e-4),
        optax.sgd(1e-4, momentum=0.9),
        optax.masked(optax.adabelief(1e-4), {"a": True, "ab": True, "b": True, "bb": False}),
        jaxreg.prox_sgd(1e-4, L1, momentum=0.9),
        optax.masked(optax.contrib.schedule_free_sgd(1e-4), {"a": True, "ab": True, "b": True, "bb": False}),
    ],
    ids=["adam", "momentum", "masked", "prox_sgd", "parameters of other leaves"],
)
def test_moments_of_a_bias_that_took_up_a_constant_stay(folding, optimizer):
    graph, params = folding
    small = jaxreg.compact(graph, params, opt_state=optimizer.init(params), inputs=(X,))
    shapes = jax.tree.map(jnp.shape, optimizer.init(small.params))
    assert jax.tree.map(jnp.shape, small.opt_state) == shapes
    zeros = jax.tree.map(jnp.zeros_like, small.params)
    after, _ = jaxreg.step(optimizer, zeros, small.opt_state, small.params)
    np.testing.assert_allclose(small.apply(after, X), saturated(params, X), atol=1e-2)
