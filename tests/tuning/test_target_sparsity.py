"""A ramp of exact zeros: its shape, its strength, what it holds and what it lets go."""

import re

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply, assert_close, assert_same_bits, gradients, parameters, train
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxreg
from jaxreg import groups, masks

ON = masks.name("kernel")
L1 = jaxreg.l1(1.0, mask=ON)
NEURONS = jaxreg.group_lasso(1.0, groups.outputs(), mask=ON)
BEGIN, END, LAST = 5, 25, 40
RATE = optax.cosine_decay_schedule(0.05, LAST)


def chained(plain):
    def make(penalty, target, **options):
        return optax.chain(plain, jaxreg.target_sparsity(penalty, RATE, target, **options))

    return make


def ramped(make):
    return lambda penalty, target, **options: make(jaxreg.sparsity_ramp(penalty, target, **options))


OPTIMIZERS = {
    "sgd": chained(optax.sgd(RATE, momentum=0.9)),
    "adam": chained(optax.adam(RATE)),
    "prox_sgd": ramped(lambda penalty: jaxreg.prox_sgd(RATE, penalty, momentum=0.9)),
    "prox_adam": ramped(lambda penalty: jaxreg.prox_adam(RATE, penalty)),
    "after prox_adam": lambda *args, **options: optax.chain(
        jaxreg.prox_adam(RATE, jaxreg.l1(1e-3, mask=ON)),
        jaxreg.target_sparsity(args[0], RATE, args[1], **options),
    ),
}


def network(seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: {"kernel": rng.normal(size=shape).astype(np.float32), "bias": np.zeros(shape[1], np.float32)}
        for name, shape in {"first": (12, 7)}.items()
    }


def noisy_run(optimizer, target=None, steps=LAST):
    """Shares of zeros after each step, and the last state, under gradients that are half noise."""
    params = network()

    def body(carry, key):
        params, state = carry
        noise = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), params)
        grads = jax.tree.map(lambda w, start, z: w - start + z, params, network(), noise)
        params, state = jaxreg.step(optimizer, grads, state, params)
        return (params, state), (
            jaxreg.sparsity(params, mask=ON),
            jaxreg.sparsity(params, groups.outputs(), mask=ON),
        )

    keys = jax.random.split(jax.random.key(0), steps)
    return jax.lax.scan(body, (params, optimizer.init(params)), keys)


def ramp(target, begin=BEGIN, end=END, steps=LAST):
    progress = np.clip((np.arange(1, steps + 1) - begin) / (end - begin), 0, 1)
    return target * (1 - (1 - progress) ** 3)


WAYS = [
    *((name, penalty, "strength") for name in list(OPTIMIZERS)[:4] for penalty in (L1, NEURONS)),
    ("sgd", L1, "projection"),
    ("prox_adam", NEURONS, "projection"),
    ("after prox_adam", L1, "projection"),
]


@pytest.mark.parametrize(("name", "penalty", "method"), WAYS)
def test_the_share_of_zeros_is_the_ramps(name, penalty, method):
    optimizer = OPTIMIZERS[name]

    @jax.jit
    @jax.vmap
    def run(target):
        made = optimizer(penalty, target, begin_step=BEGIN, end_step=END, method=method)
        return noisy_run(made)[1]

    targets = np.array([0.3, 0.9], np.float32)
    shares = run(targets)[0 if penalty is L1 else 1]
    units = 84 if penalty is L1 else 7
    for share, target in zip(shares, targets, strict=True):
        expected = np.minimum(np.round(ramp(target) * units), units - 1)
        found = np.round(np.asarray(share) * units)
        if name == "after prox_adam":  # its own penalty may make more
            assert np.all(found >= expected)
            assert found[-1] <= expected[-1] + 1
        else:
            np.testing.assert_allclose(found, expected, atol=0.6)  # a half is rounded either way


def first_step_of_adam(share):
    params, [grads] = network(1), [network(2)]
    optimizer = jaxreg.prox_adam(0.1, jaxreg.sparsity_ramp(L1, share, begin_step=0, end_step=1))
    new, state = jax.jit(apply(optimizer))(grads, optimizer.init(params), params)
    # Adam's first step is the sign of the gradient, and its step size the rate over |g|.
    pushes = np.concatenate([np.abs(grads[n]["kernel"]).ravel() for n in params])
    sizes = np.concatenate(
        [np.abs(params[n]["kernel"] - 0.1 * np.sign(grads[n]["kernel"])).ravel() for n in params]
    )
    return params, grads, new, state.strength, sizes * pushes / 0.1, pushes


def test_the_strength_is_the_smallest_that_makes_so_many_zeros():
    params, grads, new, strength, sizes, _ = first_step_of_adam(0.2)
    np.testing.assert_allclose(strength, np.sort(sizes)[round(0.2 * sizes.size) - 1], rtol=1e-4)
    plain = jaxreg.prox_adam(0.1, jaxreg.l1(float(strength) * 1.0001, mask=ON))
    expected, _ = jax.jit(apply(plain))(grads, plain.init(params), params)
    chex.assert_trees_all_close(new, expected, rtol=1e-2, atol=2e-3)
    chex.assert_trees_all_equal(new["first"]["bias"], expected["first"]["bias"])


def test_it_is_at_most_what_cancels_the_updates_of_the_living_on_average():
    params, grads, new, strength, sizes, pushes = first_step_of_adam(0.5)
    lives = sizes > np.sort(sizes)[round(0.5 * sizes.size) - 1]
    np.testing.assert_allclose(strength, pushes[lives].mean(), rtol=1e-4)
    kernels = np.concatenate([np.asarray(new[name]["kernel"]).ravel() for name in params])
    np.testing.assert_array_equal(kernels != 0, lives)
    plain = jaxreg.prox_adam(0.1, jaxreg.l1(float(strength), mask=ON))
    expected, _ = jax.jit(apply(plain))(grads, plain.init(params), params)
    shrunk = np.concatenate([np.asarray(expected[name]["kernel"]).ravel() for name in params])
    np.testing.assert_allclose(kernels[lives], shrunk[lives], rtol=1e-4)


@pytest.mark.parametrize("method", ["strength", "projection"])
def test_before_it_begins_nothing_changes_and_biases_never_do(method):
    plain = optax.sgd(0.1, momentum=0.9)
    link = jaxreg.target_sparsity(L1, 0.1, 0.8, begin_step=3, end_step=6, method=method)
    grads = gradients(4)
    update = jax.jit(apply(optax.chain(plain, link)))
    before, state = train(optax.chain(plain, link), grads[:3], parameters(), lambda _: update)
    expected, _ = train(plain, grads[:3], parameters(), jax.jit)
    chex.assert_trees_all_close(before, expected, rtol=1e-6)
    after, _ = update(grads[3], state, before)
    moved, _ = train(plain, grads, parameters(), jax.jit)
    chex.assert_trees_all_close(after["layer"]["bias"], moved["layer"]["bias"], rtol=1e-6)
    assert np.sum(np.asarray(after["layer"]["kernel"]) == 0) == round(0.8 * (1 - (2 / 3) ** 3) * 12)
    assert state[-1].count == 3
    assert state[-1].strength == 0


def test_when_the_ramp_has_ended_the_living_are_refitted():
    # Full batches on a quadratic: each weight that lives ends at its own minimum, unshrunk.
    optimizer = jaxreg.prox_sgd(0.2, jaxreg.sparsity_ramp(jaxreg.l1(1.0), 0.5, begin_step=5, end_step=20))
    wanted = jnp.array([3.0, -0.1, 0.2, 1.5, -2.0, 0.05])

    def body(carry, _):
        params, state = carry
        params, state = jaxreg.step(optimizer, params - wanted, state, params)
        return (params, state), state.strength

    (params, _), strengths = jax.lax.scan(body, (wanted / 2, optimizer.init(wanted)), length=120)
    np.testing.assert_allclose(params, jnp.where(jnp.abs(wanted) > 1, wanted, 0.0), atol=1e-4)
    assert np.any(strengths[5:20] > 0)
    assert not np.any(strengths[20:])


def test_zeros_that_are_not_wanted_are_let_go_those_with_the_largest_pull_first():
    # A layer that starts at zero, under a ramp that wants half of it.
    params, grads = jnp.zeros(4), jnp.array([-1.0, -3.0, -2.0, -0.5])
    link = jaxreg.target_sparsity(jaxreg.l1(1.0), 0.1, 0.5, begin_step=0, end_step=1)
    new, _ = train(optax.chain(optax.sgd(0.1), link), [grads], params)
    np.testing.assert_allclose(new, [0.0, 0.3, 0.2, 0.0], rtol=1e-6)


def test_at_a_rate_of_0_nothing_moves_and_zeros_stay():
    rate = optax.piecewise_constant_schedule(0.1, {3: 0.0})
    link = jaxreg.target_sparsity(jaxreg.l1(1.0), rate, 0.75, begin_step=0, end_step=12)
    params, optimizer = jnp.array([1.0, -0.5, 2.0, 0.8]), optax.chain(optax.sgd(rate), link)
    state, seen = optimizer.init(params), []
    update = jax.jit(apply(optimizer))
    for grad in [jnp.full(4, 0.1)] * 6:
        params, state = update(grad, state, params)
        seen.append(params)
    assert_same_bits(seen[3], seen[2])
    assert_same_bits(seen[-1], seen[2])
    assert 0 < np.sum(np.asarray(params) == 0) < 3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_zeros_are_exact_and_of_ties_only_the_wanted_vanish(dtype):
    params = {"kernel": jnp.array([[1.0, 0.5], [0.5, 0.5], [2.0, 3.0]], dtype)}
    link = jaxreg.target_sparsity(L1, 0.1, 0.5, begin_step=0, end_step=1)
    grads = jax.tree.map(jnp.zeros_like, params)
    new, _ = train(optax.chain(optax.sgd(0.1), link), [grads], params)
    assert new["kernel"].dtype == dtype
    np.testing.assert_array_equal(new["kernel"] == 0, params["kernel"] == 0.5)
    # Of three that tie, where one is wanted, the last goes, and the others are not shrunk to nothing.
    link = jaxreg.target_sparsity(L1, 0.1, 0.2, begin_step=0, end_step=1)
    new, _ = train(optax.chain(optax.sgd(0.1), link), [grads], params)
    np.testing.assert_array_equal(new["kernel"], params["kernel"].at[1, 1].set(0.0))


def test_every_raises_the_share_at_some_steps_only():
    schedule = jaxreg.sparsity_ramp(L1, 0.9, begin_step=2, end_step=9, every=3)
    shares = [float(schedule.share_after(updates)) for updates in range(12)]
    exact = ramp(0.9, 2, 9, 12)
    expected = [0, 0, 0, 0, 0, exact[4], exact[4], exact[4], exact[7], 0.9, 0.9, 0.9]
    np.testing.assert_allclose(shares, expected, rtol=1e-5)


def test_a_mask_held_around_it_is_gradual_magnitude_pruning():
    adam = optax.chain(
        optax.adam(0.05),
        jaxreg.target_sparsity(L1, 0.05, 0.6, begin_step=2, end_step=10, method="projection"),
    )
    optimizer = jaxreg.freeze_zeros(adam, mask=ON)
    params = parameters()
    state, live = optimizer.init(params), np.asarray(params["layer"]["kernel"]) != 0
    update = jax.jit(apply(optimizer))
    for grad in gradients(12):
        params, state = update(grad, state, params)
        now = np.asarray(params["layer"]["kernel"]) != 0
        assert not np.any(now & ~live)
        live = now
    assert live.sum() == 12 - round(0.6 * 12)


# Under transformations, on devices, on disk


def test_the_state_is_restored_from_bytes():
    optimizer = OPTIMIZERS["prox_adam"](L1, 0.7, begin_step=0, end_step=4)
    grads = gradients(5)
    update = jax.jit(apply(optimizer))
    params, state = train(optimizer, grads[:3], parameters(), lambda _: update)
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(optax.adam(RATE).init(params))) + 2
    stored = flax.serialization.to_bytes((params, state))
    template = (parameters(), optimizer.init(parameters()))
    params_again, state_again = flax.serialization.from_bytes(template, stored)
    for grad in grads[3:]:
        params, state = update(grad, state, params)
        params_again, state_again = update(grad, state_again, params_again)
    assert_close(params_again, params)


def test_another_target_or_begin_does_not_recompile():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(target, begin, params):
        link = jaxreg.target_sparsity(L1, 0.1, target, begin_step=begin, end_step=begin + 1)
        return apply(link)(jax.tree.map(jnp.zeros_like, params), link.init(params), params)[0]

    chex.clear_trace_counter()
    for target in (0.5, 0.75):
        share = jaxreg.sparsity(step(target, 0, network()), mask=ON)
        assert share == target


@pytest.mark.parametrize("penalty", [L1, NEURONS], ids=["elements", "groups"])
def test_on_shards_only_counts_and_norms_are_exchanged(penalty):
    mesh = Mesh(np.array(jax.devices()), ("d",))
    params = {"kernel": np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)}
    sharding = NamedSharding(mesh, PartitionSpec("d", None))
    placed = jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), params)
    optimizer = jaxreg.prox_adam(0.1, jaxreg.sparsity_ramp(penalty, 0.5, begin_step=0, end_step=1))
    state = jax.jit(optimizer.init)(placed)
    step = jax.jit(lambda grads, state, params: jaxreg.step(optimizer, grads, state, params))
    compiled = step.lower(placed, state, placed).compile()
    new, _ = compiled(placed, state, placed)
    expected, _ = step(params, optimizer.init(params), params)
    assert_close(new, expected, rtol=1e-5, atol=1e-6)
    assert new["kernel"].sharding.is_equivalent_to(sharding, 2)
    # An asynchronous one returns what goes in and what comes out: every shape in the line counts.
    gathers = re.findall(r"= (.*?) all-gather(?:-start)?\(", compiled.as_text())
    gathered = [shape for types in gathers for shape in re.findall(r"\w\[([\d,]*)\]", types)]
    assert all(np.prod([int(n) for n in shape.split(",") if n]) <= 24 for shape in gathered)


# scheduled


def test_a_scheduled_penalty_is_its_strengths_in_any_proximal_optimizer():
    strengths = jnp.array([0.0, 0.3, 0.1])
    grads = gradients(3)
    for make in (
        lambda penalty: jaxreg.prox_sgd(0.1, penalty, momentum=0.5),
        lambda penalty: jaxreg.prox_adam(0.1, penalty),
        lambda penalty: optax.chain(optax.adam(0.1), jaxreg.proximal(penalty, 0.1)),
    ):
        optimizer = make(jaxreg.scheduled(L1, lambda count: strengths[count]))
        actual, state = train(optimizer, grads, parameters(), jax.jit)

        @jax.jit
        def update(strength, grad, state, params, make=make):
            return apply(make(jaxreg.l1(strength, mask=ON)))(grad, state, params)

        params, expected_state = parameters(), make(L1).init(parameters())
        for strength, grad in zip(strengths, grads, strict=True):
            params, expected_state = update(strength, grad, expected_state, params)
        assert_close(actual, params)
        chex.assert_trees_all_equal_structs(state, expected_state)


# Words

RANGE = "must be a number in [0, 1)."
BAD = [
    ({"target": 1.0}, f"'target' parameter of target_sparsity {RANGE} Got 1.0."),
    ({"target": -0.1}, f"'target' parameter of target_sparsity {RANGE} Got -0.1."),
    ({"target": float("nan")}, f"'target' parameter of target_sparsity {RANGE} Got nan."),
    (
        {"end_step": 5},
        "'end_step' parameter of target_sparsity must be larger than 'begin_step'. Got begin_step=5",
    ),
    (
        {"begin_step": -1},
        "'begin_step' parameter of target_sparsity must be a non-negative whole number. Got -1.",
    ),
    ({"every": 0}, "'every' parameter of target_sparsity must be at least 1. Got 0."),
    (
        {"max_zero_share": 0.4},
        "'max_zero_share' parameter of target_sparsity must not be below its target. Got 0.4 with target=0.5",
    ),
    ({"max_zero_share": 1.5}, "'max_zero_share' parameter of target_sparsity must be a number in [0, 1]."),
    ({"method": "magic"}, "must be 'strength' or 'projection'. Got 'magic'."),
    (
        {"penalty": jaxreg.protected(L1, max_zero_share=0.5)},
        "must make elements or groups zero, as l1 and group_lasso do. Got protected",
    ),
    ({"penalty": L1 + NEURONS}, "in a sum, one part beside l2 terms. Got l1, group_lasso."),
    ({"penalty": L1 + jaxreg.l2_sp(1.0, 1.0)}, "must pull to zero, not to a reference. Got l1, l2_sp."),
    ({"learning_rate": -0.1}, "'learning_rate' parameter of target_sparsity must be a non-negative number."),
    (
        {"penalty": jaxreg.l1({"kernel": 1.0, "bias": 2.0}), "method": "projection"},
        "must have one strength with method='projection', which compares sizes, not strengths.",
    ),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_bad_arguments_are_named(change, words):
    given = {"penalty": L1, "learning_rate": 0.1, "target": 0.5, "begin_step": 5, "end_step": 10} | change
    with pytest.raises(ValueError, match=re.escape(words)):
        jaxreg.target_sparsity(**given)


def test_wrong_kinds_are_named():
    with pytest.raises(TypeError, match=r"must be a jaxreg\.Penalty, such as"):
        jaxreg.sparsity_ramp(0.9, 0.5, begin_step=0, end_step=1)
    with pytest.raises(
        TypeError, match="'begin_step' parameter of sparsity_ramp must be a non-negative whole"
    ):
        jaxreg.sparsity_ramp(L1, 0.5, begin_step=0.5, end_step=1)
    ramped = jaxreg.sparsity_ramp(L1, 0.5, begin_step=0, end_step=1)
    for make in (
        jaxreg.linbreg,
        jaxreg.adabreg,
        jaxreg.hspg,
        jaxreg.fista,
        jaxreg.ftrl,
        jaxreg.rda,
        jaxreg.ramda,
    ):
        with pytest.raises(TypeError, match=r"must be a jaxreg\.Penalty"):
            make(0.1, ramped, **({"begin_step": 1} if make is jaxreg.hspg else {}))
    with pytest.raises(TypeError, match=r"must be a jaxreg\.Penalty"):
        jaxreg.proximal(ramped, 0.1, strength_schedule=optax.constant_schedule(1.0))
    with pytest.raises(TypeError, match=r"'strength_schedule' parameter of scheduled must be a schedule"):
        jaxreg.scheduled(L1, 0.5)
    with pytest.raises(TypeError, match=r"'penalty' parameter of scheduled must be a jaxreg\.Penalty"):
        jaxreg.scheduled(0.5, optax.constant_schedule(1.0))


def test_a_mask_that_selects_nothing_is_refused_at_init():
    optimizer = jaxreg.target_sparsity(
        jaxreg.l1(1.0, mask=masks.name("scale")), 0.1, 0.5, begin_step=0, end_step=1
    )
    with pytest.raises(ValueError, match="scale"):
        optimizer.init(parameters())
    nothing = jaxreg.target_sparsity(
        jaxreg.l1(1.0, mask=masks.min_ndim(3)), 0.1, 0.5, begin_step=0, end_step=1
    )
    with pytest.raises(ValueError, match="selects no leaf"):
        nothing.init(parameters())


@pytest.mark.parametrize("method", ["strength", "projection"])
def test_penalties_without_zeros_are_refused(method):
    for penalty in (
        jaxreg.l2(1.0),
        jaxreg.huber(1.0, 0.5),
        jaxreg.elastic_net(1.0, 0.0),
        jaxreg.l1_sp(1.0, 2.0),
        jaxreg.total_variation(1.0),
        jaxreg.nuclear_norm(1.0),
        jaxreg.hoyer(1.0),
        jaxreg.non_negative(),
        jaxreg.box(-1.0, 1.0),
        jaxreg.top_k(2),
    ):
        words = f"'penalty' parameter of sparsity_ramp must make elements or groups zero.* Got {penalty.kind}"
        with pytest.raises(ValueError, match=words):
            jaxreg.sparsity_ramp(penalty, 0.5, begin_step=0, end_step=1, method=method)
