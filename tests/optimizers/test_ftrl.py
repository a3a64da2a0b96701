"""FTRL-Proximal against its published recursion, its objective, and what its strength means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from convex_problems import PENALISED, diabetes, loss, zero_weights
from helpers import assert_same_bits, gradients, parameters, train
from leaders import PENALTIES, SHAPE, STARTS, argmin, assert_same_path, gradient, run

import jaxreg
from jaxreg import groups, masks

pytestmark = pytest.mark.usefixtures("x64")
STEPS = 8


def algorithm_1(alpha, beta, power, n, l1, l2, steps):
    """McMahan et al. 2013, one coordinate at a time, with the power that TensorFlow gives n."""
    zs, ns = np.zeros(SHAPE), np.full(SHAPE, n)
    path = []
    for t in range(steps + 1):
        w = np.zeros(SHAPE)
        for i in np.ndindex(SHAPE):
            if abs(zs[i]) > l1:
                w[i] = -(zs[i] - np.sign(zs[i]) * l1) / ((beta + ns[i] ** -power) / alpha + l2)
        path.append(w)
        grads = gradient(t, w)
        for i, g in np.ndenumerate(grads):
            sigma = ((ns[i] + g * g) ** -power - ns[i] ** -power) / alpha
            zs[i] += g - sigma * w[i]
            ns[i] += g * g
    return path


@pytest.mark.parametrize(("l1", "l2"), [(0.5, 0.0), (0.3, 0.8)])
@pytest.mark.parametrize(
    ("beta", "power", "n"),
    [(1.0, -0.5, 0.0), (0.0, -0.5, 0.1), (0.5, -0.3, 0.2), (0.1, -1.0, 0.0), (0.2, 0.0, 0.0)],
)
def test_recursion_of_the_paper(beta, power, n, l1, l2):
    optimizer = jaxreg.ftrl(
        0.4,
        jaxreg.l1(l1) + jaxreg.l2(l2 / 2),
        beta=beta,
        lr_power=power,
        initial_accumulator_value=n,
    )
    path, _ = run(optimizer, STARTS["zeros"], STEPS)
    assert_same_path(path, algorithm_1(0.4, beta, power, n, l1, l2, STEPS))


RATES = {
    "constant": lambda t: 0.4,
    "decaying": lambda t: 0.6 / np.sqrt(1 + t),
    "rising": lambda t: 0.2 * (1 + t),
}


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize(
    ("start", "rate"), [("zeros", "constant"), ("elsewhere", "decaying"), ("elsewhere", "rising")]
)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_each_point_minimises_the_objective(penalty, start, rate, cumulative):
    case, beta, n, once = PENALTIES[penalty], 0.7, 0.05, 6.0
    table = jnp.array([RATES[rate](t) for t in range(STEPS)])
    optimizer = jaxreg.ftrl(
        lambda count: table[count],
        case.penalty if cumulative else case.penalty.scale(once),
        beta=beta,
        initial_accumulator_value=n,
        cumulative=cumulative,
    )
    path, grads = run(optimizer, STARTS[start], STEPS)
    expected, centres = [STARTS[start]], []
    for t in range(STEPS):
        squares = n + sum(g * g for g in grads[: t + 1])
        # sigma_{1:t} is the inverse step size; the first proximal term holds what n and beta give.
        sigma = (beta + np.sqrt(squares)) / RATES[rate](t) - sum(c for c, _ in centres)
        centres.append((sigma, path[t]))
        weight = t + 1 if cumulative else once
        expected.append(argmin(sum(grads[: t + 1]), centres, weight, case))
    assert_same_path(path, expected, rtol=1e-7, atol=1e-8)


def test_without_a_penalty_it_is_adagrad():
    schedule, grads = optax.cosine_decay_schedule(0.3, 10), gradients(9, jnp.float64)
    optimizer = jaxreg.ftrl(
        schedule, jaxreg.l1(0.1, mask=masks.weights), beta=0.0, initial_accumulator_value=0.1
    )
    params, _ = train(optimizer, grads, parameters(jnp.float64), jax.jit)
    adagrad = optax.adagrad(schedule, initial_accumulator_value=0.1, eps=0.0)
    expected, _ = train(adagrad, grads, parameters(jnp.float64), jax.jit)
    np.testing.assert_allclose(params["layer"]["bias"], expected["layer"]["bias"], rtol=1e-12)
    assert np.any(params["layer"]["kernel"] == 0)


def test_a_start_is_kept_where_nothing_pulls():
    params = parameters()
    for schedule in (0.1, optax.linear_schedule(0.0, 0.1, 3)):
        optimizer = jaxreg.ftrl(schedule, jaxreg.l1(0.0))
        still = [jax.tree.map(jnp.zeros_like, params)] * 5
        new, _ = train(optimizer, still, params, jax.jit)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), new, params)


@pytest.mark.parametrize(
    "penalty",
    [jaxreg.l1(0.1, mask=masks.weights), jaxreg.group_lasso(0.1, groups.outputs(), mask=masks.weights)],
    ids=["l1", "group_lasso"],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_untouched_elements_without_beta_are_left_to_the_penalty(penalty, dtype):
    """Neither gradient nor proximal term: the published step divides 0 by 0 where l1 is 0."""
    optimizer = jaxreg.ftrl(0.1, penalty, beta=0.0)
    params = parameters(dtype)
    grads = jax.tree.map(jnp.zeros_like, params)
    grads["layer"]["kernel"] = grads["layer"]["kernel"].at[0, 1].set(3.0)
    new, state = train(optimizer, [grads], params, jax.jit)
    assert_same_bits(new["layer"]["bias"], params["layer"]["bias"])
    kernel = np.asarray(new["layer"]["kernel"])
    np.testing.assert_array_equal(kernel != 0, np.arange(12).reshape(4, 3) == 1)
    assert np.isfinite(kernel).all()
    # The first gradient then moves as AdaGrad does, by the learning rate.
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, state, new)
    np.testing.assert_allclose(updates["layer"]["bias"], -0.1, rtol=1e-6)


def test_a_rate_of_zero_keeps_the_parameters_and_what_is_known():
    """With the gradient at that step 0 it is as if the step had not been."""
    table = jnp.array([0.3, 0.0, 0.2, 0.1])
    still = [g if t != 1 else jax.tree.map(jnp.zeros_like, g) for t, g in enumerate(gradients(4))]
    with_pause = jaxreg.ftrl(lambda count: table[count], jaxreg.l1(0.3))
    without = jaxreg.ftrl(lambda count: table[jnp.array([0, 2, 3])[count]], jaxreg.l1(0.3))
    first, _ = train(with_pause, still[:1], parameters(), jax.jit)
    second, _ = train(with_pause, still[:2], parameters(), jax.jit)
    assert_same_bits(second, first)
    paused, _ = train(with_pause, still, parameters(), jax.jit)
    expected, _ = train(without, still[:1] + still[2:], parameters(), jax.jit)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), paused, expected)


# The unit of strength


def full_batch(optimizer, steps, loss, w):
    def step(carry, _):
        return jaxreg.step(optimizer, jax.grad(loss)(carry[0]), carry[1], carry[0]), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps)[0])((w, optimizer.init(w)))[0]


@pytest.mark.parametrize(
    ("name", "far"),
    [("l1", 1e-10), ("elastic_net", 1e-4), ("group_lasso", 1e-4), ("sparse_group_lasso", 1e-4)],
)
@pytest.mark.parametrize("rate", [2.0, optax.cosine_decay_schedule(4.0, 4_000, alpha=0.3)])
def test_cumulative_strength_is_in_loss_units(name, far, rate):
    """On three convex problems; the curvature of the penalty counts ever more, so it is slow but for l1."""
    case = PENALISED[name]
    penalty = case.make(case.strengths)
    found = full_batch(jaxreg.ftrl(rate, penalty, cumulative=True), 4_000, loss, zero_weights())
    distances = penalty.optimality(found, jax.grad(loss)(found))
    for leaf, w in found.items():
        assert distances[leaf].max() < far, leaf
        assert 0 < np.count_nonzero(w) < w.size
    if name in ("l1", "elastic_net"):
        expected = case.references["diabetes"](case.strengths["diabetes"])
        np.testing.assert_allclose(found["diabetes"], expected, atol=far)
        np.testing.assert_array_equal(found["diabetes"] == 0, expected == 0)


def test_published_strength_is_compared_with_the_sum_of_gradients():
    x, y = diabetes()
    squares = lambda w: jnp.sum((x @ w - y) ** 2) / (2 * len(y))  # noqa: E731
    w = jnp.zeros(10)
    # A strength of its own fades: the run ends where nothing is penalised.
    ordinary = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(
        full_batch(jaxreg.ftrl(0.5, jaxreg.l1(5.0)), 50_000, squares, w), ordinary, atol=1e-6
    )
    # At a start of zeros the gradient of the sum is what decides.
    slope = np.abs(jax.grad(squares)(w))
    for strength, alive in ((100.5 * slope.max(), 0), (99.5 * slope.max(), 1)):
        found = full_batch(jaxreg.ftrl(0.5, jaxreg.l1(strength)), 100, squares, w)
        assert np.count_nonzero(found) == alive


def test_published_strength_times_the_steps_selects_without_shrinking():
    target = jnp.array([1.0, 0.5, 0.12, 0.08, -0.3, -0.05])
    squares = lambda w: jnp.sum((w - target) ** 2) / 2  # noqa: E731
    kept = jnp.where(jnp.abs(target) > 0.1, target, 0)
    published = full_batch(jaxreg.ftrl(0.5, jaxreg.l1(0.1 * 1_000)), 1_000, squares, jnp.zeros(6))
    np.testing.assert_allclose(published, kept, atol=1e-6)
    cumulative = full_batch(jaxreg.ftrl(0.5, jaxreg.l1(0.1), cumulative=True), 1_000, squares, jnp.zeros(6))
    np.testing.assert_allclose(cumulative, kept - 0.1 * jnp.sign(kept), atol=1e-6)
    np.testing.assert_array_equal(published == 0, cumulative == 0)


def test_at_step_t_both_units_differ_by_t():
    penalty = jaxreg.group_lasso(0.2, groups.outputs(), mask=masks.weights)
    params, grads = parameters(), gradients(5)
    params, state = train(jaxreg.ftrl(0.1, penalty), grads[:4], params)
    once, _ = jaxreg.ftrl(0.1, penalty.scale(5.0)).update(grads[4], state, params)
    every, _ = jaxreg.ftrl(0.1, penalty, cumulative=True).update(grads[4], state, params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), once, every)


# Words

L1 = jaxreg.l1(0.1)
BAD = [
    (
        lambda: jaxreg.ftrl(-1, L1),
        ValueError,
        "'learning_rate' parameter of ftrl must be a non-negative number",
    ),
    (lambda: jaxreg.ftrl(0.1, 0.1), TypeError, "The 'penalty' parameter of ftrl must be a jaxreg.Penalty"),
    (lambda: jaxreg.ftrl(0.1, L1, beta=-1.0), ValueError, "'beta' parameter of ftrl must be a non-negative"),
    (
        lambda: jaxreg.ftrl(0.1, L1, lr_power=0.5),
        ValueError,
        "The 'lr_power' parameter of ftrl must be a number of at most 0. Got 0.5.",
    ),
    (lambda: jaxreg.ftrl(0.1, L1, lr_power=-np.inf), ValueError, "at most 0. Got -inf."),
    (lambda: jaxreg.ftrl(0.1, L1, lr_power=np.nan), ValueError, "at most 0. Got nan."),
    (lambda: jaxreg.ftrl(0.1, L1, lr_power="a"), TypeError, "at most 0. Got 'a' of type str."),
    (lambda: jaxreg.ftrl(0.1, L1, lr_power=None), TypeError, "at most 0. Got None of type NoneType."),
    (
        lambda: jaxreg.ftrl(0.1, L1, initial_accumulator_value=-0.1),
        ValueError,
        "The 'initial_accumulator_value' parameter of ftrl must be a non-negative number. Got -0.1.",
    ),
    (lambda: jaxreg.ftrl(0.1, L1, cumulative=1), TypeError, "'cumulative' parameter of ftrl must be True or"),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD)
def test_bad_arguments(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


def test_numbers_may_be_traced():
    params, [grads] = parameters(), gradients(1)

    @jax.jit
    def first(beta, power, n):
        optimizer = jaxreg.ftrl(0.1, L1, beta=beta, lr_power=power, initial_accumulator_value=n)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    plain = jaxreg.ftrl(0.1, L1, beta=0.3, lr_power=-0.7, initial_accumulator_value=0.2)
    expected, _ = plain.update(grads, plain.init(params), params)
    traced = first(0.3, -0.7, 0.2)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), traced, expected)
