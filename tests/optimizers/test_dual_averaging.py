"""RDA, RMDA and RAMDA against their published recursions, their objectives and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from convex_problems import cancer, diabetes, lasso
from helpers import apply, assert_same_bits, gradients, parameters, train
from leaders import PENALTIES, SHAPE, STARTS, argmin, assert_same_path, gradient, run, soft
from sklearn import linear_model

import jaxreg
from jaxreg import groups, masks

pytestmark = pytest.mark.usefixtures("x64")
STEPS = 8
RATES = {
    "constant": lambda t: 0.3,
    "decaying": lambda t: 0.5 / np.sqrt(1 + t),
    "with zeros": lambda t: 0.3 * (t % 3),
}


def tabled(values):
    table = jnp.array([values(t) for t in range(STEPS)])
    return lambda count: table[count]


# The published recursions


def test_rda_is_xiaos():
    """Algorithm 1 with beta_t = gamma sqrt(t) and the closed form for l1, one coordinate at a time."""
    gamma, strength = 2.5, 0.3
    mean, path = np.zeros(SHAPE), [np.zeros(SHAPE)]
    for t in range(1, STEPS + 1):
        mean = (t - 1) / t * mean + gradient(t - 1, path[-1]) / t
        w = np.zeros(SHAPE)
        for i, g in np.ndenumerate(mean):
            if abs(g) > strength:
                w[i] = -np.sqrt(t) / gamma * (g - strength * np.sign(g))
        path.append(w)
    actual, _ = run(jaxreg.rda(1 / gamma, jaxreg.l1(strength)), STARTS["zeros"], STEPS)
    assert_same_path(actual, path)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_rda_is_rmda(penalty, start, rate):
    """Huang and Lee 2022, algorithm 1, with their c_t."""
    case, eta = PENALTIES[penalty], RATES[rate]
    c = lambda t: min(0.5 + t / 6, 1.0)  # noqa: E731
    w, v, alpha, path = STARTS[start], np.zeros(SHAPE), 0.0, [STARTS[start]]
    for t in range(1, STEPS + 1):
        beta = np.sqrt(t)
        s = eta(t - 1) * beta
        v, alpha = v + s * gradient(t - 1, w), alpha + s
        w = (1 - c(t - 1)) * w + c(t - 1) * case.prox(STARTS[start] - v / beta, alpha / beta)
        path.append(w)
    optimizer = jaxreg.rda(tabled(eta), case.penalty, momentum=tabled(lambda t: 1 - c(t)), weight_power=0.5)
    actual, _ = run(optimizer, STARTS[start], STEPS)
    assert_same_path(actual, path)


@pytest.mark.parametrize("l2", [0.0, 0.4])
@pytest.mark.parametrize("start", STARTS)
def test_ramda_is_the_authors(start, l2):
    """Huang and Lee 2024, algorithm 1, where the subproblem has a closed form."""
    rate, c, eps, strength = 0.2, 0.6, 1e-3, 0.3
    w, v, u, alpha, path = STARTS[start], np.zeros(SHAPE), np.zeros(SHAPE), 0.0, [STARTS[start]]
    for t in range(1, STEPS + 1):
        g, s = gradient(t - 1, w), rate * np.sqrt(t)
        v, u, alpha = v + s * g, u + s * g * g, alpha + s
        p = np.cbrt(u) + eps
        mixed = (1 - c) * w
        w = mixed + c * soft(STARTS[start] * p - v, alpha * strength) / (p + 2 * alpha * l2)
        path.append(w)
    path.append(soft(STARTS[start] * p - v, alpha * strength) / (p + 2 * alpha * l2))
    penalty = jaxreg.l1(strength) + jaxreg.l2(l2)
    optimizer = jaxreg.ramda(rate, penalty, momentum=1 - c, eps=eps)
    actual, _ = run(optimizer, STARTS[start], STEPS)
    np.testing.assert_allclose(actual, path[:-1], rtol=1e-9, atol=1e-11)
    # The last step without momentum, with the state that is there.
    params, state = jnp.asarray(STARTS[start]), optimizer.init(jnp.asarray(STARTS[start]))
    for t in range(STEPS):
        last = optimizer if t < STEPS - 1 else jaxreg.ramda(rate, penalty, momentum=0.0, eps=eps)
        params, state = apply(last)(jnp.asarray(gradient(t, np.asarray(params))), state, params)
    assert_same_path([np.zeros(SHAPE), params], [np.zeros(SHAPE), path[-1]])


# The objectives


@pytest.mark.parametrize("rate", ["constant", "decaying"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", ["rda", "rmda", "ramda"])
def test_each_point_minimises_the_objective(name, penalty, start, rate):
    case, eta, w0 = PENALTIES[penalty], RATES[rate], STARTS[start]
    make = {
        "rda": jaxreg.rda,
        "rmda": lambda r, p: jaxreg.rda(r, p, weight_power=0.5),
        "ramda": lambda r, p: jaxreg.ramda(r, p, momentum=0.0, eps=1e-2),
    }[name]
    path, grads = run(make(tabled(eta), case.penalty), w0, STEPS)
    expected = [w0]
    for t in range(1, STEPS + 1):
        shares = [eta(r) * (1.0 if name == "rda" else np.sqrt(r + 1)) for r in range(t)]
        pull = sum(s * g for s, g in zip(shares, grads, strict=False))
        curvature = np.full(SHAPE, np.sqrt(t))
        if name == "ramda":
            curvature = np.cbrt(sum(s * g * g for s, g in zip(shares, grads, strict=False))) + 1e-2
        expected.append(argmin(pull, [(curvature, w0)], sum(shares), case))
    assert_same_path(path, expected, rtol=1e-7, atol=1e-8)


# The unit of strength


def squares(x, y):
    return lambda w: jnp.sum((x @ w - y) ** 2) / (2 * len(y))


def lasso_problem():
    return squares(*diabetes()), jaxreg.l1(0.05), lasso(0.05)


def groups_problem():
    """Rows of coefficients as groups are scikit-learn's multi-task lasso."""
    x, y = diabetes()
    y = np.stack([y, 0.5 * y + 0.3 * x[:, 3]], axis=1)
    model = linear_model.MultiTaskLasso(alpha=0.1, fit_intercept=False, tol=1e-14, max_iter=100_000)
    penalty = jaxreg.group_lasso(0.1, groups.inputs(), size_weights=False)
    return squares(x, y), penalty, model.fit(x, y).coef_.T


def logistic_problem():
    x, sign = cancer()
    model = linear_model.LogisticRegression(
        C=1 / (0.3 * len(sign)), l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-10
    )
    reference = model.set_params(max_iter=100_000).fit(x, sign).coef_[0]
    return lambda w: jnp.mean(jnp.logaddexp(0.0, -sign * (x @ w))), jaxreg.l1(0.3), reference


FULL_BATCH = {
    "rda": lambda p: jaxreg.rda(3.0, p),
    "rmda": lambda p: jaxreg.rda(0.2, p, weight_power=0.5),
    "ramda": lambda p: jaxreg.ramda(0.01, p, momentum=0.0),
}


@pytest.mark.parametrize(
    ("problem", "near"),
    [
        (lasso_problem, {"rda": 5e-4, "rmda": 1e-4, "ramda": 5e-5}),
        (groups_problem, {"rda": 5e-4, "rmda": 1e-4, "ramda": 5e-5}),
        (logistic_problem, {"rda": 3e-3, "rmda": 5e-4, "ramda": 6e-4}),
    ],
    ids=["lasso", "groups", "logistic"],
)
@pytest.mark.parametrize("name", FULL_BATCH)
def test_strength_is_in_loss_units(name, problem, near):
    """Toward the model of scikit-learn, whose support it finds, at the speed that the docstring states."""
    loss, penalty, expected = problem()
    optimizer = FULL_BATCH[name](penalty)

    def step(carry, _):
        return jaxreg.step(optimizer, jax.grad(loss)(carry[0]), carry[1], carry[0]), carry[0]

    w = jnp.zeros(expected.shape)
    _, path = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=16_001))((w, optimizer.init(w)))
    np.testing.assert_allclose(path[16_000], expected, atol=near[name])
    np.testing.assert_array_equal(path[16_000] == 0, np.abs(expected) < 1e-9)
    assert 0 < np.count_nonzero(expected) < expected.size
    # The error is the pull to the start: 1 / sqrt(t), and with rising weights 1 / t.
    far, close = (np.abs(path[t] - expected).max() for t in (4_000, 16_000))
    np.testing.assert_allclose(far / close, 2.0 if name == "rda" else 4.0, rtol=0.1)
    objective = [float(loss(w) + penalty(w)) for w in (path[16_000], jnp.asarray(expected))]
    assert 0 <= objective[0] - objective[1] < near[name] ** 2


# Momentum, the start, and the state


@pytest.mark.parametrize(
    "make",
    [
        lambda mu: jaxreg.rda(0.3, jaxreg.l1(0.6), momentum=mu),
        lambda mu: jaxreg.ramda(0.1, jaxreg.l1(0.6), momentum=mu),
    ],
    ids=["rda", "ramda"],
)
def test_momentum_delays_exact_zeros_and_a_last_step_without_it_gives_them(make):
    target, start, steps = jnp.array([2.0, 0.1, -0.2]), jnp.ones(3), 60
    zeros = [False, True, True]

    def trained(optimizer):
        update, carry = jax.jit(apply(optimizer)), (start, optimizer.init(start))
        for _ in range(steps):
            carry = update(carry[0] - target, carry[1], carry[0])
        return carry

    params, state = trained(make(0.8))
    assert np.all(params != 0)
    np.testing.assert_array_less(np.abs(params[1:]), 1e-4)
    last, _ = apply(make(0.0))(params - target, state, params)
    np.testing.assert_array_equal(np.asarray(last) == 0, zeros)
    falling = optax.linear_schedule(0.8, 0.0, steps - 1)
    # Compiled, a schedule's last value may be its rounding error and not 0.
    for schedule in (falling, lambda count: falling(count) + 4e-8):
        fallen, _ = trained(make(schedule))
        np.testing.assert_array_equal(np.asarray(fallen) == 0, zeros)


@pytest.mark.parametrize(
    "optimizer",
    [jaxreg.rda(0.1, jaxreg.l1(0.1)), jaxreg.ramda(0.1, jaxreg.l1(0.1), momentum=0.0)],
    ids=["rda", "ramda"],
)
def test_the_state_decides_what_the_parameters_are(optimizer):
    params, grads = parameters(), gradients(3)
    params, state = train(optimizer, grads[:2], params)
    moved = jax.tree.map(lambda x: x + 7.0, params)
    expected, actual = (apply(optimizer)(grads[2], state, start)[0] for start in (params, moved))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), actual, expected)


@pytest.mark.parametrize(
    "optimizer",
    [
        jaxreg.rda(0.1, jaxreg.l1(1e-3)),
        jaxreg.ramda(1e-3, jaxreg.l1(1e-3), momentum=0.0),
        jaxreg.ftrl(0.1, jaxreg.l1(1e-3)),
    ],
    ids=["rda", "ramda", "ftrl"],
)
def test_small_steps_are_not_lost_on_narrow_parameters(optimizer):
    """SGD's step of 1e-3 is below the resolution of bfloat16 at 1; here the sums are wide."""
    grads = [{"w": jnp.full(4, 1e-2, jnp.float32)}] * 200
    wide, _ = train(optimizer, grads, {"w": jnp.ones(4, jnp.float32)}, jax.jit)
    narrow, state = train(optimizer, grads, {"w": jnp.ones(4, jnp.bfloat16)}, jax.jit)
    assert np.all(wide["w"] < 0.99)
    assert narrow["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow["w"].astype(jnp.float32), wide["w"], rtol=1e-2)
    sums = [leaf for leaf in jax.tree.leaves(state) if leaf.shape]
    assert sorted({str(leaf.dtype) for leaf in sums})[-1] == "float32"


def test_ramda_without_eps_leaves_untouched_elements_to_the_penalty():
    params = parameters()
    still = jax.tree.map(jnp.zeros_like, params)
    for penalty in (
        jaxreg.l1(0.1, mask=masks.weights),
        jaxreg.group_lasso(0.1, groups.outputs(), mask=masks.weights),
    ):
        new, _ = train(jaxreg.ramda(0.1, penalty, momentum=0.0, eps=0.0), [still] * 2, params, jax.jit)
        assert_same_bits(new["layer"]["bias"], params["layer"]["bias"])
        np.testing.assert_array_equal(new["layer"]["kernel"], 0.0)


def test_strengths_are_differentiable_through_training():
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(30, 6))), jnp.asarray(rng.normal(size=(30, 2)))
    # A dead input: its gradients are 0, where roots have no slope.
    x = x.at[:, 0].set(0.0)
    fit = squares(x, y)
    for make in (
        lambda p: jaxreg.ftrl(0.1, p),
        lambda p: jaxreg.ftrl(0.1, p, beta=0.0, cumulative=True),
        lambda p: jaxreg.rda(0.2, p, momentum=0.5),
        lambda p: jaxreg.ramda(0.02, p),
    ):

        def trained(strength, make=make):
            optimizer = make(jaxreg.group_lasso(strength, groups.inputs()))
            w = jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)))

            def step(carry, _):
                return jaxreg.step(optimizer, jax.grad(fit)(carry[0]), carry[1], carry[0]), None

            (w, _), _ = jax.lax.scan(step, (w, optimizer.init(w)), None, length=6)
            return fit(w) + jnp.sum(w**3)

        slope, value = jax.jit(jax.grad(trained)), jax.jit(trained)
        difference = (value(0.1 + 1e-6) - value(0.1 - 1e-6)) / 2e-6
        assert abs(difference) > 1e-3
        np.testing.assert_allclose(slope(0.1), difference, rtol=1e-4)


# Words

L1 = jaxreg.l1(0.1)
IN = "must be a number in [0, 1). Got"
BAD = [
    (
        lambda: jaxreg.rda(-0.1, L1),
        ValueError,
        "'learning_rate' parameter of rda must be a non-negative number",
    ),
    (lambda: jaxreg.rda(0.1, None), TypeError, "The 'penalty' parameter of rda must be a jaxreg.Penalty"),
    (lambda: jaxreg.rda(0.1, L1, momentum=1.0), ValueError, f"The 'momentum' parameter of rda {IN} 1.0."),
    (lambda: jaxreg.rda(0.1, L1, momentum=None), TypeError, f"The 'momentum' parameter of rda {IN} None"),
    (
        lambda: jaxreg.rda(0.1, L1, weight_power=-1),
        ValueError,
        "The 'weight_power' parameter of rda must be a non-",
    ),
    (
        lambda: jaxreg.ramda(np.nan, L1),
        ValueError,
        "'learning_rate' parameter of ramda must be a non-negative",
    ),
    (lambda: jaxreg.ramda(0.1, 0.1), TypeError, "The 'penalty' parameter of ramda must be a jaxreg.Penalty"),
    (
        lambda: jaxreg.ramda(0.1, L1, momentum=-0.1),
        ValueError,
        f"The 'momentum' parameter of ramda {IN} -0.1.",
    ),
    (
        lambda: jaxreg.ramda(0.1, L1, eps=-1e-6),
        ValueError,
        "The 'eps' parameter of ramda must be a non-negative",
    ),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD)
def test_bad_arguments(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


def test_a_momentum_schedule_out_of_range_is_named():
    optimizer = jaxreg.rda(0.1, L1, momentum=lambda count: 1.5)
    params, [grads] = parameters(), gradients(1)
    with pytest.raises(ValueError, match="'momentum' parameter of rda"):
        optimizer.update(grads, optimizer.init(params), params)
