"""A found support that is held: always, between two steps, or by a flag."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply, assert_close, assert_same_bits, gradients, parameters, train

import jaxreg
from jaxreg import groups, masks

WEIGHTS = masks.weights

INNER = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "adamw": optax.adamw(0.1),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1)),
    "noisy": optax.chain(optax.sgd(0.1), optax.add_noise(0.1, 0.5, jax.random.key(0))),
    "prox_sgd": jaxreg.prox_sgd(0.1, jaxreg.l1(0.01), momentum=0.9),
    "prox_adam": jaxreg.prox_adam(0.1, jaxreg.l1(0.01)),
    "prox_adam[groups]": jaxreg.prox_adam(0.1, jaxreg.group_lasso(0.01, groups.inputs(), mask=WEIGHTS)),
    "proximal": optax.chain(optax.adam(0.1), jaxreg.proximal(jaxreg.l1(0.01), 0.1)),
}
every_inner = pytest.mark.parametrize("inner", INNER.values(), ids=list(INNER))


def direct(optimizer):
    return lambda grads, state, params: jaxreg.step(optimizer, grads, state, params)


both_ways = pytest.mark.parametrize("take", [apply, direct], ids=["update", "step"])


def pruned(params, row=1):
    kernel = params["layer"]["kernel"].at[row].set(0.0)
    return {"layer": {**params["layer"], "kernel": kernel}}


def support(params):
    return np.asarray(params["layer"]["kernel"]) != 0


# Held


@every_inner
@both_ways
def test_zeros_stay_zero_with_momentum_already_running(inner, take):
    grads = gradients(6)
    params, state = train(inner, grads[:3], parameters())
    params = pruned(params)
    free, _ = apply(inner)(jax.tree.map(jnp.zeros_like, params), state, params)
    assert np.all(support(free)[1, 1:])  # momentum or noise alone would move them

    frozen = jaxreg.freeze_zeros(inner, mask=WEIGHTS)
    state, live = frozen.init(params)._replace(inner=state), support(params)
    update = jax.jit(take(frozen))
    for grad in grads[3:]:
        before = params
        params, state = update(grad, state, params)
        np.testing.assert_array_equal(support(params), live)
        assert np.all((params["layer"]["kernel"] != before["layer"]["kernel"])[:, 1:] == live[:, 1:])
        assert np.all(params["layer"]["bias"] != before["layer"]["bias"])
    assert state.count == 3


@both_ways
def test_masked_out_zeros_train(take):
    params, [grads] = parameters(), gradients(1)
    params["layer"]["bias"] = jnp.zeros(3)
    new, _ = take(frozen := jaxreg.freeze_zeros(optax.sgd(0.1), mask=WEIGHTS))(
        grads, frozen.init(params), params
    )
    np.testing.assert_allclose(new["layer"]["bias"], -0.1 * grads["layer"]["bias"], rtol=1e-6)
    frozen = jaxreg.freeze_zeros(optax.sgd(0.1))
    held, _ = take(frozen)(grads, frozen.init(params), params)
    assert_same_bits(held["layer"]["bias"], params["layer"]["bias"])


def test_norms_are_those_of_the_live_weights():
    params, grads = {"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([1.0, 100.0])}
    frozen = jaxreg.freeze_zeros(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5)))
    new, _ = train(frozen, [grads], params)
    np.testing.assert_allclose(new["w"], [2.5, 0.0], rtol=1e-6)


def test_frozen_zeros_ignore_nan_gradients():
    params, grads = {"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([1.0, jnp.nan])}
    new, _ = train(jaxreg.freeze_zeros(optax.adam(0.1)), [grads], params)
    np.testing.assert_allclose(new["w"], [2.9, 0.0], rtol=1e-6)


def test_the_support_of_a_proximal_optimizer_only_shrinks():
    frozen = jaxreg.freeze_zeros(jaxreg.prox_adam(0.1, jaxreg.l1(0.3)), mask=WEIGHTS)
    params = parameters()
    state, live = frozen.init(params), support(params)
    for grad in gradients(8):
        params, state = jaxreg.step(frozen, grad, state, params)
        assert not np.any(support(params) & ~live)
        live = support(params)
    assert live.sum() < support(parameters()).sum()


def test_the_direct_path_of_a_proximal_optimizer_is_kept():
    # The prox itself, not p + (prox - p): their roundings differ in bfloat16.
    params, [grads] = parameters(jnp.bfloat16), gradients(1, jnp.bfloat16)
    penalty = jaxreg.group_lasso(0.3, groups.inputs(), mask=WEIGHTS)
    inner = jaxreg.proximal_optimizer(optax.sgd(0.1), penalty, 0.1)
    frozen = jaxreg.freeze_zeros(inner, mask=WEIGHTS)
    actual, _ = jaxreg.step(frozen, grads, frozen.init(params), params)
    expected, _ = jaxreg.step(inner, grads, inner.init(params), params)
    assert_same_bits(actual, expected)  # the gradient is 0 where the parameter is
    added, _ = apply(inner)(grads, inner.init(params), params)
    assert np.any(added["layer"]["kernel"] != expected["layer"]["kernel"])


# Between steps


@every_inner
@both_ways
def test_outside_its_steps_it_is_the_optimizer_itself(inner, take):
    params, grads = pruned(parameters()), gradients(3)
    never = jaxreg.freeze_zeros(inner, begin_step=len(grads))
    ours, theirs = (params, never.init(params)), (params, inner.init(params))
    compiled_step = jax.jit(take(never))
    for grad in grads:
        compiled, _ = compiled_step(grad, *ours[::-1])
        ours, theirs = take(never)(grad, *ours[::-1]), take(inner)(grad, *theirs[::-1])
        assert_same_bits(ours[0], theirs[0])
        chex.assert_trees_all_equal(ours[1].inner, theirs[1])
        assert_close(compiled, theirs[0])


@both_ways
def test_dense_sparse_dense(take):
    """Train, prune by a threshold, train what is left, then all of it from zero."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(200, 12)), jnp.float32)
    target = features @ jnp.asarray([2, -1, 0.5, *[0.02] * 9], jnp.float32)

    def loss(w):
        return jnp.mean((features @ w["kernel"] + w["bias"] - target) ** 2)

    pruning, release, end = 300, 600, 900
    adam = optax.adam(0.01)
    optimizer = jaxreg.freeze_zeros(adam, mask=masks.name("kernel"), begin_step=pruning, end_step=release)
    slope = jax.grad(loss)
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(lambda s, p: take(optimizer)(slope(p), s, p), n=1))
    reference = jax.jit(lambda s, p: apply(adam)(slope(p), s, p))
    params = {"kernel": jnp.asarray(rng.normal(size=12), jnp.float32), "bias": jnp.zeros(())}
    state, dense, dense_state = optimizer.init(params), params, adam.init(params)
    losses = {}
    for count in range(end):
        if count == pruning:
            chex.assert_trees_all_close(params, dense, rtol=1e-3, atol=1e-6)
            losses["dense"] = loss(params)
            kept = np.abs(params["kernel"]) > 0.1
            params["kernel"] = jnp.where(kept, params["kernel"], 0.0)
            losses["pruned"] = loss(params)
        params, state = update(state, params)
        alive = np.asarray(params["kernel"]) != 0
        if count < pruning:
            dense, dense_state = reference(dense_state, dense)
        elif count < release:
            np.testing.assert_array_equal(alive, kept)
        else:
            assert np.all(alive)
        if count == release - 1:
            losses["sparse"] = loss(params)
    losses["dense again"] = loss(params)
    assert kept.sum() == 3
    assert losses["dense"] < losses["sparse"] < losses["pruned"]
    assert losses["dense again"] < losses["dense"]


def test_zeros_that_are_released_start_from_zero():
    frozen = jaxreg.freeze_zeros(optax.sgd(0.1, momentum=0.9), begin_step=1, end_step=3)
    params, trace = {"w": jnp.array([1.0])}, []
    state = frozen.init(params)
    for count in range(5):
        if count == 1:
            params = {"w": jnp.zeros(1)}
        params, state = jaxreg.step(frozen, {"w": jnp.ones(1)}, state, params)
        trace.append(float(params["w"][0]))
    # The momentum of the first step has decayed twice when the zero is released: 1 + 0.9 ** 3.
    np.testing.assert_allclose(trace[:4], [0.9, 0.0, 0.0, -0.1 * (1 + 0.9**3)], rtol=1e-6)
    assert trace[4] < trace[3]


def test_steps_may_be_traced():
    params, grads = jnp.array([1.0, 0.0]), jnp.ones(2)

    @jax.jit
    @jax.vmap
    def at_count(begin, end, count):
        optimizer = jaxreg.freeze_zeros(optax.sgd(0.1), begin_step=begin, end_step=end)
        state = optimizer.init(params)._replace(count=count)
        return jaxreg.step(optimizer, grads, state, params)[0]

    begin, end, count = jnp.array([[0, 9, 3], [3, 4, 3], [0, 3, 3], [4, 9, 3], [0, 4, 3]]).T
    moved = np.array([False, False, True, True, False])
    np.testing.assert_allclose(at_count(begin, end, count)[:, 1], np.where(moved, -0.1, 0.0), rtol=1e-6)


# By a flag


@pytest.mark.parametrize("begin", [0, 100])
def test_a_flag_decides_in_place_of_the_steps(begin):
    inner = optax.adam(0.1)
    frozen = jaxreg.freeze_zeros(inner, begin_step=begin)
    params, [grads] = pruned(parameters()), gradients(1)
    state = frozen.init(params)
    expected, _ = apply(inner)(grads, inner.init(params), params)
    for kind in (bool, np.bool_, jnp.bool_):
        held, _ = jaxreg.step(frozen, grads, state, params, hold=kind(True))
        np.testing.assert_array_equal(support(held), support(params))
        free, _ = jaxreg.step(frozen, grads, state, params, hold=kind(False))
        assert_same_bits(free, expected)
    default, _ = jaxreg.step(frozen, grads, state, params, hold=None)
    assert_same_bits(default, held if begin == 0 else free)


def test_a_traced_flag_does_not_recompile():
    frozen = jaxreg.freeze_zeros(optax.chain(optax.scale_by_adam(), optax.scale(-0.1)))
    params, grads = pruned(parameters()), gradients(4)
    state = frozen.init(params)

    @jax.jit
    def update(grad, state, params, hold):
        return jaxreg.step(frozen, grad, state, params, hold=hold)

    supports = []
    for grad, hold in zip(grads, (True, False, True, True), strict=True):
        params, state = update(grad, state, params, hold)
        supports.append(support(params)[1, 1:].all())
        params = pruned(params) if not hold else params
    assert supports == [False, True, False, False]
    assert update._cache_size() == 1
    assert state.count == 4


def test_the_flag_is_not_passed_on_and_other_arguments_are():
    seen = []

    def update(updates, state, params=None, **extra_args):
        seen.append(extra_args)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    optimizer = jaxreg.freeze_zeros(inner)
    params = {"w": jnp.ones(2)}
    optimizer.update(params, optimizer.init(params), params, hold=True, value=1.0)
    jaxreg.step(optimizer, params, optimizer.init(params), params, hold=False, value=2.0)
    assert seen == [{"value": 1.0}, {"value": 2.0}]


def test_the_flag_reaches_it_in_chain_and_multi_steps():
    params, grads = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.ones(2)}
    frozen = jaxreg.freeze_zeros(optax.sgd(0.1))
    for optimizer in (optax.chain(optax.scale(1.0), frozen), optax.MultiSteps(frozen, 1)):
        for hold, expected in ((True, [-0.1, 0.0]), (False, [-0.1, -0.1])):
            updates, _ = optimizer.update(grads, optimizer.init(params), params, hold=hold)
            np.testing.assert_allclose(updates["w"], expected, rtol=1e-6)


# Words

SGD = optax.sgd(0.1)
WHOLE = "parameter of freeze_zeros must be a non-negative whole number. Got"
BAD = [
    (
        lambda: jaxreg.freeze_zeros(optax.sgd),
        TypeError,
        "'optimizer' parameter of freeze_zeros must be an optax",
    ),
    (lambda: jaxreg.freeze_zeros(SGD, mask=1.0), TypeError, "The 'mask' parameter must be a mask"),
    (lambda: jaxreg.freeze_zeros(SGD, begin_step=-1), ValueError, f"The 'begin_step' {WHOLE} -1."),
    (
        lambda: jaxreg.freeze_zeros(SGD, begin_step=None),
        TypeError,
        f"'begin_step' {WHOLE} None of type NoneType",
    ),
    (lambda: jaxreg.freeze_zeros(SGD, end_step=1.5), TypeError, f"The 'end_step' {WHOLE} 1.5 of type float."),
    (lambda: jaxreg.freeze_zeros(SGD, end_step=True), TypeError, f"'end_step' {WHOLE} True of type bool."),
    (lambda: jaxreg.freeze_zeros(SGD, end_step=jnp.arange(2)), TypeError, f"The 'end_step' {WHOLE}"),
    (
        lambda: jaxreg.freeze_zeros(SGD, begin_step=np.int64(5), end_step=5),
        ValueError,
        "The 'end_step' parameter of freeze_zeros must be larger than 'begin_step'. "
        "Got begin_step=5 and end_step=5.",
    ),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD)
def test_bad_arguments(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize("hold", [1, 0.5, jnp.ones(2, bool), jnp.array(1), "yes"])
def test_a_bad_flag(hold):
    optimizer, params = jaxreg.freeze_zeros(SGD), {"w": jnp.ones(2)}
    with pytest.raises(
        TypeError, match="'hold' parameter of freeze_zeros must be True, False or a boolean sc"
    ):
        optimizer.update(params, optimizer.init(params), params, hold=hold)


def test_a_mask_that_does_not_fit_is_refused_at_init():
    with pytest.raises(ValueError, match="The mask embeddings selects no leaf of the parameters"):
        jaxreg.freeze_zeros(SGD, mask=masks.embeddings).init(parameters())
