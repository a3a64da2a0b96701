"""optax's contract, for every transform and optimizer of the registry."""

import functools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import apply, assert_close, assert_same_bits, gradients, installed, parameters, train
from registry import TRANSFORMS

import jaxreg

every = pytest.mark.parametrize("case", TRANSFORMS, ids=str)
# One row for each function: containers and wrappers make no difference between its options.
FACTORIES = {case.name.split("[")[0]: case for case in reversed(TRANSFORMS)}
once = pytest.mark.parametrize("case", [c for c in TRANSFORMS if c in FACTORIES.values()], ids=str)
RATED = [case for case in TRANSFORMS if "learning_rate" in case.injected]


@functools.cache
def compiled(case):
    """One training step, compiled once for all laws that need it."""
    return jax.jit(apply(case.make()))


def trained(case, grads, params):
    return train(case.make(), grads, params, lambda _: compiled(case))


def signature(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype), x.weak_type), jax.eval_shape(lambda: tree))


@every
def test_unknown_extra_arguments_are_ignored(case):
    optimizer = case.make()
    assert isinstance(optimizer, optax.GradientTransformationExtraArgs)
    params, [grads] = parameters(), gradients(1)
    state = optimizer.init(params)
    plain = optimizer.update(grads, state, params)
    chex.assert_trees_all_equal(optimizer.update(grads, state, params, value=1.0, unheard_of="x"), plain)


@every
def test_jit_with_donation_equals_eager_and_does_not_recompile(case):
    optimizer, grads = case.make(), gradients()
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(apply(optimizer), n=1), donate_argnums=(1, 2))
    params, eager = parameters(), parameters()
    state, eager_state = optimizer.init(params), optimizer.init(eager)
    for grad in grads:
        given, before = params, signature((params, state))
        params, state = update(grad, state, params)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
        assert signature((params, state)) == before
        eager, eager_state = apply(optimizer)(grad, eager_state, eager)
        assert signature((eager, eager_state)) == before
    assert_close((params, state), (eager, eager_state))
    # Retracing is not the only reason to compile again: where and how arrays lie is another.
    assert update._cache_size() == 1


@every
def test_scan_and_vmap_equal_a_loop(case):
    optimizer, params, grads = case.make(), parameters(), gradients()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)
    update = compiled(case)

    def body(carry, grad):
        return update(grad, carry[1], carry[0]), None

    scanned, _ = jax.lax.scan(body, (params, optimizer.init(params)), stacked)
    assert_close(scanned, train(optimizer, grads, params, lambda _: update))

    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, -leaf]), params)
    state = jax.vmap(optimizer.init)(params)
    batched = jax.vmap(update)(stacked, state, params)
    for index, grad in enumerate(grads):
        own, one = jax.tree.map(lambda leaf, index=index: leaf[index], (params, batched))
        assert_close(one, update(grad, optimizer.init(own), own))


@every
def test_abstract_init(case):
    optimizer, params = case.make(), parameters()
    abstract = jax.eval_shape(lambda: params)
    expected = signature(optimizer.init(params))
    assert signature(jax.eval_shape(optimizer.init, params)) == expected
    assert signature(jax.eval_shape(optimizer.init, abstract)) == expected
    chex.assert_trees_all_equal_structs(optimizer.init(abstract), optimizer.init(params))


@every
def test_map_params_finds_what_is_like_the_parameters(case):
    optimizer, params = case.make(), parameters()
    state = optimizer.init(params)
    mapped = optax.tree.map_params(
        optimizer, lambda _: "moment", state, transform_non_params=lambda _: "other"
    )
    chex.assert_trees_all_equal_structs(mapped, state)
    shapes = {leaf.shape for leaf in jax.tree.leaves(params)}
    expected = jax.tree.map(lambda leaf: "moment" if leaf.shape in shapes else "other", state)
    assert mapped == expected


@pytest.mark.parametrize("case", RATED, ids=str)
def test_inject_hyperparams_equals_the_plain_transform(case):
    injected = optax.inject_hyperparams(lambda learning_rate: case.make(learning_rate=learning_rate))
    params, grads = parameters(), gradients()
    actual, state = train(injected(learning_rate=0.1), grads, params, jax.jit)
    assert_close((actual, state.inner_state), trained(case, grads, params))
    np.testing.assert_allclose(state.hyperparams["learning_rate"], 0.1, rtol=1e-7)


@pytest.mark.parametrize("case", RATED, ids=str)
def test_a_schedule_is_its_constants_from_count_zero(case):
    table = jnp.array([0.3, 0.0, 0.15])
    params, grads = parameters(), gradients(len(table))
    scheduled, _ = train(case.make(learning_rate=lambda count: table[count]), grads, params, jax.jit)

    @jax.jit
    def update(rate, grad, state, params):
        return apply(case.make(learning_rate=rate))(grad, state, params)

    state = case.make().init(params)
    for rate, grad in zip(table, grads, strict=True):
        params, state = update(rate, grad, state, params)
    assert_close(scheduled, params)


@every
def test_missing_params_are_named_in_optax_words(case):
    optimizer, params, [grads] = case.make(), parameters(), gradients(1)
    with pytest.raises(ValueError, match="not passing `params`") as ours:
        optimizer.update(grads, optimizer.init(params))
    with pytest.raises(ValueError, match="not passing `params`") as theirs:
        optax.keep_params_nonnegative().update(grads, optax.NonNegativeParamsState(), None)
    assert str(ours.value) == str(theirs.value)


# Inside other transforms


@once
def test_in_a_chain(case):
    params, grads = parameters(), gradients()
    chained = optax.chain(optax.scale(0.5), case.make())
    halved = [jax.tree.map(lambda x: 0.5 * x, grad) for grad in grads]
    assert_close(train(chained, grads, params, jax.jit)[0], trained(case, halved, params)[0])


@once
def test_in_masked_and_partition(case):
    params, [grads] = parameters(), gradients(1)
    labels = {"layer": {"bias": "frozen", "kernel": "trained"}}
    expected, _ = trained(case, [grads], params)
    masked = optax.masked(case.make(), jax.tree.map(lambda label: label == "trained", labels))
    updates, _ = masked.update(grads, masked.init(params), params)
    assert_same_bits(updates["layer"]["bias"], grads["layer"]["bias"])
    assert_close(optax.apply_updates(params, updates)["layer"]["kernel"], expected["layer"]["kernel"])

    partition = optax.partition({"trained": case.make(), "frozen": optax.set_to_zero()}, labels)
    actual, _ = train(partition, [grads], params)
    assert_same_bits(actual["layer"]["bias"], params["layer"]["bias"])
    assert_close(actual["layer"]["kernel"], expected["layer"]["kernel"])


@every
def test_inside_multi_steps_is_one_big_step(case):
    params, grads = parameters(), gradients(4)
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *pair) for pair in (grads[:2], grads[2:])]
    accumulated, _ = train(optax.MultiSteps(case.make(), every_k_schedule=2), grads, params, jax.jit)
    expected, _ = trained(case, means, params)
    assert_close(accumulated, expected, rtol=1e-5)


def test_outside_multi_steps_it_shrinks_on_every_micro_step():
    accumulate = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2).gradient_transformation()
    params = jnp.array([1.0, 0.03])
    grads = [jnp.zeros(2)] * 2
    outside, _ = train(optax.chain(accumulate, jaxreg.proximal_l1(0.2, 0.1)), grads, params)
    chex.assert_trees_all_close(outside, jnp.array([0.96, 0.0]))
    inner = optax.chain(optax.sgd(0.1), jaxreg.proximal_l1(0.2, 0.1))
    inside, _ = train(optax.MultiSteps(inner, every_k_schedule=2), grads, params)
    chex.assert_trees_all_close(inside, jnp.array([0.98, 0.01]))


@once
def test_apply_if_finite_rejects_nan(case):
    params, grads = parameters(), gradients()
    optimizer = optax.apply_if_finite(case.make(), max_consecutive_errors=5)
    broken = jax.tree.map(lambda x: x.at[0].set(jnp.nan), grads[1])
    update = jax.jit(apply(optimizer))
    before, before_state = train(optimizer, grads[:1], params, lambda _: update)
    after, state = update(broken, before_state, before)
    assert_same_bits(after, before)
    assert_same_bits(state.inner_state, before_state.inner_state)
    assert state.total_notfinite == 1


class Model(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.layer.kernel[...] = parameters()["layer"]["kernel"]
        self.layer.bias[...] = parameters()["layer"]["bias"]
        self.steps = nnx.Variable(jnp.array(0))


# nnx.Optimizer before flax 0.12 cannot wrap a state with empty leaves, as optax's Muon has.
HOLES = ("prox_muon", "proximal[compensated]")
WRAPPED = [c for c in TRANSFORMS if c.name not in HOLES or installed("flax", "0.12.0")]


@pytest.mark.parametrize("case", WRAPPED, ids=str)
def test_nnx_optimizer(case):
    model = Model()
    optimizer = nnx.Optimizer(model, case.make(), wrt=nnx.Param)
    [grads] = gradients(1)
    given = nnx.state(model, nnx.Param)
    nnx.replace_by_pure_dict(given, grads)
    optimizer.update(model, given)
    expected, _ = trained(case, [grads], parameters())
    assert_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), expected)


@once
def test_equinox_filtered_gradients(case):
    linear = eqx.nn.Linear(4, 3, key=jax.random.key(0))
    values = parameters()["layer"]
    linear = eqx.tree_at(lambda m: (m.weight, m.bias), linear, (values["kernel"].T, values["bias"]))
    # Holes: what is not an array, and what is not trained.
    model = {"linear": linear, "activation": jax.nn.relu, "frozen": jnp.ones(2)}
    trained = eqx.filter(model, {"linear": True, "activation": False, "frozen": False})
    trained = eqx.filter(trained, eqx.is_inexact_array)
    [grads] = gradients(1)
    holes = jax.tree.map(
        lambda x: grads["layer"]["kernel" if x.ndim == 2 else "bias"].reshape(x.shape), trained
    )
    optimizer = case.make()
    updates, _ = jax.jit(optimizer.update)(holes, optimizer.init(trained), trained)
    chex.assert_trees_all_equal_structs(updates, trained)
    new = eqx.apply_updates(model, updates)
    assert new["activation"] is jax.nn.relu
    assert_same_bits(new["frozen"], model["frozen"])
    flat = {"kernel": trained["linear"].weight, "bias": trained["linear"].bias}
    flat_grads = {"kernel": holes["linear"].weight, "bias": holes["linear"].bias}
    expected, _ = train(optimizer, [flat_grads], flat, jax.jit)
    assert_close({"kernel": new["linear"].weight, "bias": new["linear"].bias}, expected)
