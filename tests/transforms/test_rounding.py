"""Stochastic and compensated rounding: nothing is lost, zeros are exact, and the state is ordinary arrays."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx
from helpers import apply, assert_close, assert_same_bits, gradients, installed, parameters
from jax.sharding import NamedSharding, PartitionSpec

import jaxreg
from jaxreg import groups, masks
from jaxreg.transforms.rounding import remembered, round_and_remember, round_up_by_chance

NARROW = [jnp.bfloat16, jnp.float16]
KINDS = ["stochastic", "compensated"]
both = pytest.mark.parametrize("rounding", KINDS)
KERNEL = masks.name("kernel")


def repeated(optimizer, params, steps):
    """Training with zero gradients."""
    nothing = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def run(params):
        def body(carry, _):
            return apply(optimizer)(nothing, carry[1], carry[0]), None

        return jax.lax.scan(body, (params, optimizer.init(params)), length=steps)[0]

    return run(params)


def adam_with(decay):
    return optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(1e-3), decay)


@both
def test_a_hundred_steps_of_decay_in_bfloat16(rounding):
    weights = jnp.ones(10_000, jnp.bfloat16).at[:100].set(0.0)
    decay = jaxreg.weight_decay(0.1, learning_rate=1e-3, rounding=rounding)
    after, _ = repeated(adam_with(decay), weights, 100)
    assert after.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(after[100:], np.float64).mean(), 0.9999**100, rtol=2e-3)
    np.testing.assert_array_equal(np.asarray(after[:100], np.float32), 0.0)


def test_without_rounding_it_is_lost():
    weights = jnp.ones(4, jnp.bfloat16)
    after, _ = repeated(optax.adamw(1e-3, weight_decay=0.1), weights, 100)
    np.testing.assert_array_equal(np.asarray(after, np.float32), 1.0)


@pytest.mark.parametrize("dtype", NARROW)
def test_compensated_training_is_training_in_float32(dtype):
    # Powers of two among them, below which the numbers lie twice as close.
    rng = np.random.default_rng(0)
    start = jnp.asarray(np.concatenate([rng.normal(size=400), [1.0, -2.0, 0.25, -0.5]]), dtype)
    narrow, state = repeated(jaxreg.weight_decay(1e-6, rounding="compensated"), start, 300)
    wide, _ = repeated(jaxreg.weight_decay(1e-6), start.astype(jnp.float32), 300)
    assert np.all(wide != start)
    assert_same_bits(remembered(narrow.astype(jnp.float32), state.remainders, dtype), wide)
    assert_same_bits(narrow, wide.astype(dtype))


@pytest.mark.parametrize("dtype", [*NARROW, jnp.float8_e5m2])
def test_the_mean_of_chance_is_the_number(dtype):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=50) * 10.0 ** rng.integers(-3, 3, size=50), jnp.float32)
    noise = jax.random.uniform(jax.random.key(0), (20_000, 50))
    drawn = np.asarray(jax.jit(jax.vmap(lambda u: round_up_by_chance(x, dtype, u)))(noise), np.float64)
    exact = np.asarray(x, np.float64)
    # The two numbers of the dtype around each, from a sorted table of all of them.
    bits = np.arange(2 ** (8 * jnp.dtype(dtype).itemsize), dtype=f"u{jnp.dtype(dtype).itemsize}")
    with np.errstate(invalid="ignore"):  # NaN among them
        table = bits.view(jnp.dtype(dtype)).astype(np.float64)
    table = np.unique(table[np.isfinite(table)])
    above = np.searchsorted(table, exact, side="left")
    for column, value in enumerate(exact):
        low, high = table[above[column] - 1], table[above[column]]
        assert set(drawn[:, column]) <= {low, high}
        spread = (high - low) / 2 / np.sqrt(len(drawn))
        assert abs(drawn[:, column].mean() - value) <= 5 * spread


@pytest.mark.parametrize("dtype", NARROW)
def test_what_the_dtype_holds_stays(dtype):
    info = jnp.finfo(dtype)
    held = jnp.array([0.0, -0.0, 1.0, -3.0, 0.1, info.max, -info.max, jnp.inf, -jnp.inf], dtype)
    wide = held.astype(jnp.float32)
    almost_one = jnp.full(wide.shape, 1 - 2.0**-24)
    assert_same_bits(jax.jit(round_up_by_chance, static_argnums=1)(wide, dtype, almost_one), wide)
    rounded, rest = jax.jit(round_and_remember, static_argnums=1)(wide, dtype)
    assert_same_bits(rounded, wide)
    np.testing.assert_array_equal(rest, 0)
    assert np.isnan(round_up_by_chance(jnp.float32(jnp.nan), dtype, jnp.float32(0.5)))


@pytest.mark.parametrize("dtype", NARROW)
def test_it_does_not_overflow_where_the_nearest_number_does_not(dtype):
    largest = jnp.float32(jnp.finfo(dtype).max) * (1 + jnp.float32(jnp.finfo(dtype).eps) / 8)
    rounded = round_up_by_chance(largest, dtype, jnp.float32(0.0)).astype(dtype)
    assert rounded == jnp.finfo(dtype).max


LINKS = {
    "weight_decay": functools.partial(jaxreg.weight_decay, 0.01),
    "l1": functools.partial(jaxreg.proximal, jaxreg.l1(0.2), 0.3),
    "columns": functools.partial(
        jaxreg.proximal, jaxreg.group_lasso(0.3, groups.outputs(), mask=KERNEL), 0.3
    ),
}


@pytest.mark.parametrize(
    ("link", "rounding"),
    [
        ("weight_decay", "stochastic"),
        ("weight_decay", "compensated"),
        ("columns", "stochastic"),
        ("l1", "compensated"),
    ],
)
def test_apply_updates_lands_where_step_does(link, rounding):
    rng = np.random.default_rng(2)

    def draw(dtype, scale):
        return {"kernel": jnp.asarray(scale * rng.normal(size=(24, 8)) * np.linspace(0.1, 1, 8), dtype)}

    optimizer = LINKS[link](rounding=rounding)
    params = {str(jnp.dtype(dtype)): draw(dtype, 1.0) for dtype in NARROW}
    moves = {str(jnp.dtype(dtype)): draw(dtype, 0.01) for dtype in NARROW}
    through_optax = jax.jit(apply(optimizer))
    direct = jax.jit(lambda u, s, p: jaxreg.step(optimizer, u, s, p))
    state = optimizer.init(params)
    for _ in range(3):
        expected, expected_state = direct(moves, state, params)
        params, state = through_optax(moves, state, params)
        assert_same_bits((params, state), (expected, expected_state))
    if link != "weight_decay":
        assert 0.05 < float(jaxreg.sparsity(params)) < 0.95


@both
def test_other_leaves_are_as_without_rounding(rounding):
    mixed = {"layer": {"kernel": parameters(jnp.bfloat16)["layer"]["kernel"], "bias": jnp.ones(3)}}
    [grads] = gradients(1)

    def updates(**given):
        link = jaxreg.weight_decay(0.3, **given)
        return jax.jit(link.update)(grads, link.init(mixed), mixed)[0]["layer"]

    # The bias is of float32; then the kernel, of bfloat16, is out of the mask.
    assert_same_bits(updates(rounding=rounding)["bias"], updates()["bias"])
    masked = updates(mask=masks.name("bias"), rounding=rounding)
    assert_same_bits(masked["kernel"], grads["layer"]["kernel"])


def test_leaves_without_updates_keep_their_remainders():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.bfloat16)}
    link = jaxreg.weight_decay(1e-3, rounding="compensated")
    update = jax.jit(link.update)
    _, state = update({"a": jnp.zeros(2), "b": jnp.zeros(2)}, link.init(params), params)
    updates, after = update({"a": jnp.zeros(2), "b": None}, state, params)
    assert updates["b"] is None
    assert_same_bits(after.remainders["b"], state.remainders["b"])
    assert np.all(after.remainders["a"] != state.remainders["a"])


@both
def test_its_state_is_saved_and_goes_on(rounding, tmp_path):
    params = {"layer": {"kernel": jnp.full((4, 3), 0.3, jnp.bfloat16)}}
    link = optax.chain(optax.sgd(0.1), jaxreg.weight_decay(0.01, rounding=rounding))
    update = jax.jit(apply(link))
    params, state = update(params, link.init(params), params)
    expected = update(params, state, params)
    checkpointer = orbax.checkpoint.StandardCheckpointer()
    checkpointer.save(tmp_path / "state", (params, state))
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "state", (params, link.init(params)))
    checkpointer.close()
    pickled = pickle.loads(pickle.dumps(jax.device_get((params, state))))
    for saved in (restored, pickled):
        assert_same_bits(update(saved[0], saved[1], saved[0]), expected)


@both
def test_its_state_is_arrays_to_optax(rounding):
    params = {"kernel": jnp.full((4, 3), 0.3, jnp.bfloat16)}
    link = jaxreg.weight_decay(0.01, rounding=rounding)
    state = link.init(params)
    mapped = optax.tree.map_params(link, lambda _: "moment", state, transform_non_params=lambda _: "other")
    assert mapped.remainders == (None if rounding == "stochastic" else {"kernel": "moment"})
    assert mapped.key == ("other" if rounding == "stochastic" else None)

    finite = optax.apply_if_finite(link, 3)
    step = jax.jit(apply(finite), donate_argnums=(1, 2))
    move = {"kernel": jnp.full((4, 3), 0.01)}
    expected, _ = jax.jit(apply(link))(move, state, params)
    actual, state = step(move, finite.init(params), jax.tree.map(jnp.copy, params))
    assert_same_bits(actual, expected)
    kept = jax.tree.map(np.array, (actual, state.inner_state))
    after, state = step({"kernel": jnp.full((4, 3), jnp.nan)}, state, actual)
    assert_same_bits((after, state.inner_state), kept)


class Narrow(nnx.Module):
    """A layer in bfloat16, and a norm in float32 after it."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.linear = nnx.Linear(4, 3, rngs=rngs, param_dtype=jnp.bfloat16)
        self.norm = nnx.LayerNorm(3, rngs=rngs)


# nnx.Optimizer before flax 0.12 cannot wrap a state with holes, as there are for float32 parameters.
@pytest.mark.parametrize("rounding", KINDS if installed("flax", "0.12.0") else ["stochastic"])
def test_nnx_optimizer_with_parameters_of_two_widths(rounding):
    model = Narrow()
    link = jaxreg.weight_decay(1e-3, mask=masks.weights, rounding=rounding)
    optimizer = nnx.Optimizer(model, link, wrt=nnx.Param)
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    expected, _ = jax.jit(apply(link))(jax.tree.map(jnp.zeros_like, before), link.init(before), before)
    assert_same_bits(nnx.to_pure_dict(nnx.state(model, nnx.Param)), expected)


def test_the_seed_of_a_proximal_link_says_which_coins():
    params = jnp.ones(256, jnp.bfloat16)  # half a spacing above where the prox leads
    links = [jaxreg.proximal(jaxreg.l1(2.0**-9), 1.0, rounding="stochastic", seed=seed) for seed in (0, 0, 7)]
    update = jax.jit(apply(links[0]))  # the seed is in the state alone
    first, again, other = (update(jnp.zeros(256), link.init(params), params)[0] for link in links)
    assert_same_bits(first, again)
    assert 80 < np.sum(first != other) < 176


@both
def test_small_thresholds_shrink_and_reach_zero(rounding):
    # 100 steps of 1e-4: lost in bfloat16 for weights of 1, enough to kill those of 0.005.
    weights = jnp.asarray(np.repeat([1.0, 0.005, 0.0], [2000, 20, 20]), jnp.bfloat16)
    link = jaxreg.proximal(jaxreg.l1(1e-4), 1.0, rounding=rounding)
    after, _ = repeated(link, weights, 100)
    after = np.asarray(after, np.float64)
    np.testing.assert_allclose(after[:2000].mean(), 0.99, rtol=2e-3)
    np.testing.assert_array_equal(after[2000:], 0.0)
    lost, _ = repeated(jaxreg.proximal(jaxreg.l1(1e-4), 1.0), weights, 100)
    np.testing.assert_array_equal(np.asarray(lost[:2000], np.float64), 1.0)


@both
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_decay_of_zero_rounds_for_a_proximal_optimizer(dtype, rounding):
    weights = jnp.asarray(np.repeat([1.0, 0.005, 0.0], [2000, 20, 20]), jnp.bfloat16)
    inner = jaxreg.prox_sgd(1e-3, jaxreg.l1(0.1))
    optimizer = optax.chain(inner, jaxreg.weight_decay(0.0, rounding=rounding))
    cast = optax.stateless(lambda updates, _: updates.astype(dtype))
    after, _ = repeated(optax.chain(cast, optimizer), weights, 100)
    after = np.asarray(after, np.float64)
    np.testing.assert_allclose(after[:2000].mean(), 0.99, rtol=2e-3)
    np.testing.assert_array_equal(after[2000:], 0.0)


@both
def test_it_keeps_shards(rounding):
    mesh = jax.make_mesh((8,), ("x",))
    sharding = NamedSharding(mesh, PartitionSpec("x", None))
    params = {"w": jax.device_put(jnp.full((16, 4), 0.3, jnp.bfloat16), sharding)}
    link = jaxreg.weight_decay(1e-3, rounding=rounding)
    state = link.init(params)
    if rounding == "compensated":
        assert state.remainders["w"].sharding == sharding
    new, _ = jax.jit(apply(link))(params, state, params)
    assert new["w"].sharding.is_equivalent_to(sharding, 2)
    alone = {"w": jnp.full((16, 4), 0.3, jnp.bfloat16)}
    expected, _ = jax.jit(apply(link))(alone, link.init(alone), alone)
    assert_same_bits(jax.device_get(new), jax.device_get(expected))


@both
def test_the_derivative_is_that_of_the_number_rounded(rounding):
    params = {"w": jnp.array([1.0, -2.0, 0.0], jnp.bfloat16)}

    def total(strength):
        link = jaxreg.weight_decay(strength, rounding=rounding)
        updates, _ = link.update({"w": jnp.zeros(3)}, link.init(params), params)
        return jnp.sum(updates["w"] * jnp.array([1.0, 10.0, 100.0]))

    assert_close(jax.jit(jax.grad(total))(0.01), jnp.float32(-1.0 + 20.0))


BAD = [
    (
        lambda **given: jaxreg.weight_decay(0.1, **given),
        {"rounding": "nearest"},
        ValueError,
        "The 'rounding' parameter of weight_decay must be None, 'stochastic' or 'compensated'. "
        "Got 'nearest'.",
    ),
    (
        lambda **given: jaxreg.proximal(jaxreg.l1(0.1), 0.1, **given),
        {"rounding": "stochastic", "seed": -1},
        ValueError,
        "The 'seed' parameter of proximal must be a non-negative whole number. Got -1.",
    ),
    (
        lambda **given: jaxreg.weight_decay(0.1, **given),
        {"rounding": "stochastic", "seed": 0.5},
        TypeError,
        "The 'seed' parameter of weight_decay must be a non-negative whole number. Got 0.5 of type float.",
    ),
    (
        lambda **given: jaxreg.weight_decay(0.1, **given),
        {"rounding": "compensated", "seed": 3},
        ValueError,
        "The 'seed' parameter of weight_decay is of use with rounding='stochastic' only. "
        "Got seed=3 with rounding='compensated'.",
    ),
    (
        lambda **given: jaxreg.proximal(jaxreg.l1(0.1), 0.1, **given),
        {"seed": np.int64(3)},
        ValueError,
        "The 'seed' parameter of proximal is of use with rounding='stochastic' only. "
        "Got seed=3 with rounding=None.",
    ),
]


@pytest.mark.parametrize(("make", "given", "error", "words"), BAD)
def test_bad_arguments(make, given, error, words):
    with pytest.raises(error) as caught:
        make(**given)
    assert str(caught.value) == words
