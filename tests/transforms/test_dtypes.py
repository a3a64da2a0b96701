"""Dtypes, exact zeros, holes and bits that must not change, for every transform and optimizer."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply, assert_close, assert_same_bits, gradients, installed, parameters
from registry import TRANSFORMS

import jaxreg
from jaxreg import groups, masks

every = pytest.mark.parametrize("case", TRANSFORMS, ids=str)
compiled = pytest.mark.parametrize("transform", [jax.jit, lambda update: update], ids=["jit", "eager"])

PAIRS = [*itertools.product([jnp.float32, jnp.bfloat16], repeat=2), (jnp.float16, jnp.float32)]
"""Of a parameter and its gradient."""

KERNEL = masks.name("kernel")
L1 = jaxreg.l1(0.1, mask=KERNEL)
COLUMNS = jaxreg.group_lasso(0.1, groups.outputs(), mask=KERNEL)


def every_pair(params=None, grads=None):
    """A kernel and a gradient for each pair of dtypes."""
    params = parameters()["layer"]["kernel"] if params is None else params
    grads = gradients(1)[0]["layer"]["kernel"] if grads is None else grads
    both = {
        f"{jnp.dtype(p).name} with {jnp.dtype(g).name}": (params.astype(p), grads.astype(g)) for p, g in PAIRS
    }
    return ({name: {"kernel": pair[side]} for name, pair in both.items()} for side in (0, 1))


ROUNDED = ("proximal[compensated]", "weight_decay[stochastic]")
"""Whose updates say in float32 which number of a narrower parameter they lead to."""


def dtypes(tree):
    return jax.tree.map(lambda x: x.dtype, tree)


@every
def test_updates_have_the_wider_dtype_and_parameters_keep_theirs_and_their_zeros(case):
    params, grads = every_pair()
    optimizer = case.make()
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    expected = jax.tree.map(lambda p, g: jnp.promote_types(p.dtype, g.dtype), params, grads)
    if case.name == "add_penalty":
        expected = dtypes(grads)
    if case.name in ROUNDED:
        expected = jax.tree.map(lambda dtype: jnp.promote_types(dtype, jnp.float32), expected)
    if case.name == "freeze_zeros":
        inner = optax.adam(0.1)
        expected = dtypes(inner.update(grads, inner.init(params), params)[0])
    assert dtypes(updates) == expected
    new = optax.apply_updates(params, updates)
    assert dtypes(new) == dtypes(params)
    for name, leaf in new.items():  # which had no gradient
        np.testing.assert_array_equal(np.asarray(leaf["kernel"], np.float32)[[0, 1, 3], 0], 0.0, err_msg=name)


@compiled
@pytest.mark.parametrize(
    "case",
    # In decoupled units no step is long enough.
    [c for c in TRANSFORMS if c.name.startswith("prox") and c.name not in ("prox_lion", "prox_muon")],
    ids=str,
)
def test_killed_weights_are_exact_zeros_after_apply_updates(case, transform):
    rng = np.random.default_rng(1)
    start = jnp.asarray(rng.uniform(0.05, 1.3, size=(5, 3)) * rng.choice([-1, 1], size=(5, 3)))
    # Small in the column that a penalty with so long a step kills, large in the other two.
    grads = jnp.asarray(rng.normal(size=(5, 3)) * np.array([0.013, 20, 20]))
    params, grads = every_pair(start, grads)
    optimizer = case.make(learning_rate=100.0)
    update, state = transform(apply(optimizer)), optimizer.init(params)
    for _ in range(2):  # the strength of one row's schedule is 0 at first
        params, state = update(grads, state, params)
    for name, leaf in params.items():
        kernel = np.asarray(leaf["kernel"], np.float64)
        assert np.all(kernel[:, 0] == 0), name
        assert np.all(np.isfinite(kernel)), name
        assert np.any(kernel[:, 1:]), name


@compiled
@pytest.mark.parametrize("penalty", [L1, COLUMNS], ids=["l1", "columns"])
def test_exact_zeros_are_those_of_the_prox(penalty, transform):
    # The difference to the parameter must not be rounded more coarsely than the parameter.
    rng = np.random.default_rng(2)
    params, grads = every_pair(
        jnp.asarray(rng.normal(size=(64, 8))), jnp.asarray(rng.normal(size=(64, 8)) * 0.3)
    )
    optimizer = jaxreg.proximal(penalty, 9.0)
    wide = jax.tree.map(lambda p, u: p.astype(jnp.float32) + u.astype(jnp.float32), params, grads)
    expected = penalty.prox(wide, 9.0)
    new, _ = transform(apply(optimizer))(grads, optimizer.init(params), params)
    share = float(jaxreg.sparsity(expected))
    assert 0.1 < share < 0.9
    for name in params:
        actual, exact = (np.asarray(tree[name]["kernel"], np.float64) for tree in (new, expected))
        assert np.all(actual[exact == 0] == 0), name
        # p + (z - p) is z but for two roundings of numbers not larger than p and z.
        resolution = 3 * float(jnp.finfo(new[name]["kernel"].dtype).eps)
        np.testing.assert_allclose(actual, exact, rtol=resolution, atol=resolution, err_msg=name)


def test_narrow_gradients_under_optax_branches():
    # Both branches of optax's lax.cond must agree: gradients are cast to the parameters' dtypes first.
    params = parameters()
    [grads] = gradients(1, jnp.bfloat16)
    cast = optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params)
    )
    inner = optax.chain(optax.sgd(0.1), jaxreg.proximal(L1, 0.1))
    expected, _ = apply(inner)(grads, inner.init(params), params)
    finite = optax.chain(cast, optax.apply_if_finite(inner, 3))
    actual, _ = jax.jit(apply(finite))(grads, finite.init(params), params)
    assert_close(actual, expected, rtol=1e-2)
    accumulated = optax.chain(cast, optax.MultiSteps(inner, 1).gradient_transformation())
    actual, _ = jax.jit(apply(accumulated))(grads, accumulated.init(params), params)
    chex.assert_trees_all_equal_dtypes(actual, params)
    assert_close(actual, expected, rtol=1e-2)


NEED_EVERY_UPDATE = ("adam", "adabreg", "amsgrad", "adagrad", "lion", "muon", "freeze_zeros")
"""Around optimizers of optax that need an update for every parameter themselves."""


@pytest.mark.parametrize(
    "case",
    [case for case in TRANSFORMS if not any(word in case.name for word in NEED_EVERY_UPDATE)],
    ids=str,
)
def test_leaves_without_updates_are_frozen(case):
    params, [grads] = parameters(), gradients(1)
    grads["layer"]["bias"] = None
    optimizer = case.make()
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    assert updates["layer"]["bias"] is None
    assert updates["layer"]["kernel"].shape == params["layer"]["kernel"].shape
    updates, _ = jax.jit(optimizer.update)(grads, state, params)
    assert updates["layer"]["bias"] is None


def test_step_leaves_frozen_leaves_alone():
    params, [grads] = parameters(), gradients(1)
    grads["layer"]["bias"] = None
    optimizer = jaxreg.prox_sgd(0.1, jaxreg.l1(0.1))
    new, _ = jax.jit(lambda g, s, p: jaxreg.step(optimizer, g, s, p))(grads, optimizer.init(params), params)
    assert_same_bits(new["layer"]["bias"], params["layer"]["bias"])
    assert np.any(new["layer"]["kernel"] != params["layer"]["kernel"])


MASKED = {
    "add_penalty": (jaxreg.add_penalty(L1), optax.identity()),
    "proximal": (jaxreg.proximal(COLUMNS, 0.1), optax.identity()),
    "proximal_l1": (jaxreg.proximal_l1(0.1, 0.1, mask=KERNEL), optax.identity()),
    "proximal_group_lasso": (
        jaxreg.proximal_group_lasso(0.1, 0.1, groups.outputs(), mask=KERNEL),
        optax.identity(),
    ),
    "weight_decay": (jaxreg.weight_decay(0.1, mask=KERNEL), optax.identity()),
    "prox_sgd": (jaxreg.prox_sgd(0.1, L1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
    "prox_adam": (jaxreg.prox_adam(0.1, L1), optax.adam(0.1)),
    "proximal_optimizer": (jaxreg.proximal_optimizer(optax.lion(0.1), L1, 0.1), optax.lion(0.1)),
}


@pytest.mark.parametrize("name", MASKED)
def test_updates_of_masked_out_leaves_keep_their_bits(name):
    optimizer, plain = MASKED[name]
    params, [grads] = parameters(), gradients(1)
    params["layer"]["bias"] = params["layer"]["bias"].at[1].set(-0.0)
    grads["layer"]["bias"] = grads["layer"]["bias"].at[0].set(-0.0)
    actual, _ = optimizer.update(grads, optimizer.init(params), params)
    expected, _ = plain.update(grads, plain.init(params), params)
    assert_same_bits(actual["layer"]["bias"], expected["layer"]["bias"])
    assert np.any(actual["layer"]["kernel"] != expected["layer"]["kernel"])


# optax's Muon before 0.2.7 transposes complex matrices without conjugating them, and diverges.
COMPLEX = [c for c in TRANSFORMS if c.name != "prox_muon" or installed("optax", "0.2.7")]


@pytest.mark.parametrize("case", COMPLEX, ids=str)
def test_complex_parameters(case):
    phase = jnp.exp(1j * jnp.linspace(0, 3, 12)).reshape(4, 3).astype(jnp.complex64)
    params = {"kernel": parameters()["layer"]["kernel"] * phase}
    grads = {"kernel": gradients(1)[0]["layer"]["kernel"] * phase}
    optimizer = case.make()
    update = jax.jit(apply(optimizer))
    new, state = update(grads, optimizer.init(params), params)
    new, _ = update(grads, state, new)
    assert new["kernel"].dtype == jnp.complex64
    assert np.all(np.isfinite(new["kernel"]))
    # With the phase turned back this is the real problem.
    real, real_grads = ({"kernel": (tree["kernel"] / phase).real} for tree in (params, grads))
    expected, state = update(real_grads, optimizer.init(real), real)
    expected, _ = update(real_grads, state, expected)
    chex.assert_trees_all_close(new["kernel"] / phase, expected["kernel"].astype(jnp.complex64), atol=2e-5)


MOVE_INTEGERS = ("prox_adamw", "prox_nadam", "prox_lion", "prox_muon")
"""Around optimizers of optax that decay integers, or make NaN of them."""


@pytest.mark.parametrize("case", [case for case in TRANSFORMS if case.name not in MOVE_INTEGERS], ids=str)
def test_integer_leaves_pass(case):
    params, [grads] = parameters(), gradients(1)
    params["steps"], grads["steps"] = jnp.arange(3), jnp.zeros(3, jnp.int32)
    optimizer = case.make()
    new, _ = apply(optimizer)(grads, optimizer.init(params), params)
    assert_same_bits(new["steps"], params["steps"])
    plain, _ = apply(optimizer)(
        {"layer": grads["layer"]}, optimizer.init({"layer": params["layer"]}), {"layer": params["layer"]}
    )
    assert_close(new["layer"], plain["layer"])
