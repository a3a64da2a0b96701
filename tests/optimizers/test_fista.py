"""FISTA's mathematics: published recursions, the minimisers of other solvers, what backtracking promises."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from convex_problems import cancer, diabetes
from sklearn import linear_model

import jaxreg
from jaxreg import groups

double = pytest.mark.usefixtures("x64")
Loss = Callable[[Any], jax.Array]

VARIANTS = {
    "constant": {},
    "constant, no restart": {"restart": False},
    "backtracking": {"backtracking": True},
    "backtracking, no restart": {"backtracking": True, "restart": False},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def squares(x: np.ndarray, y: np.ndarray) -> Loss:
    return lambda w: jnp.sum((x @ w - y) ** 2) / (2 * len(y))


def logistic(x: np.ndarray, sign: np.ndarray) -> Loss:
    return lambda w: jnp.mean(jnp.logaddexp(0.0, -sign * (x @ w)))


def lipschitz(x: np.ndarray) -> float:
    return np.linalg.norm(x, 2) ** 2 / len(x)


def run(optimizer: Any, loss: Loss, start: Any, steps: int, direct: bool = True) -> tuple[Any, Any]:
    """Parameters and states after each of the steps, stacked."""

    def advance(carry: Any, _: None) -> tuple[Any, Any]:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        grads = jax.tree.map(jnp.conj, grads)  # optax's convention for complex parameters
        extra = {"value": value, "value_fn": loss}
        if direct:
            params, state = jaxreg.step(optimizer, grads, state, params, **extra)
        else:
            updates, state = optimizer.update(grads, state, params, **extra)
            params = optax.apply_updates(params, updates)
        return (params, state), (params, state)

    go = jax.jit(lambda carry: jax.lax.scan(advance, carry, None, length=steps))
    return go((start, optimizer.init(start)))[1]


def violations(penalty: jaxreg.Penalty, loss: Loss, w: Any) -> np.ndarray:
    """How far each of the stacked points is from a minimiser."""
    return np.asarray(jax.vmap(lambda w: penalty.optimality(w, jax.grad(loss)(w)).max())(w))


# The recursions, written from the papers


def soft(x: np.ndarray, threshold: float) -> np.ndarray:
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)


def published(
    x: np.ndarray, targets: np.ndarray, strength: float, rates: Any, steps: int, restart: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Beck and Teboulle 2009, 4.1 to 4.3, with the gradient scheme of O'Donoghue and Candes 2015."""
    old = y = np.zeros(x.shape[1])
    t, solutions, held = 1.0, [], []
    for k in range(steps):
        gradient = x.T @ (x @ y - targets) / len(targets)
        new = soft(y - rates(k) * gradient, rates(k) * strength)
        if restart and (y - new) @ (new - old) > 0:
            t, y = 1.0, new
        else:
            t_next = (1 + np.sqrt(1 + 4 * t**2)) / 2
            y = new + (t - 1) / t_next * (new - old)
            t = t_next
        old = new
        solutions.append(new)
        held.append(y)
    return solutions, held


@double
@pytest.mark.parametrize("direct", [False, True], ids=["update", "step"])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("decaying", [False, True])
def test_constant_steps_are_the_published_recursion(decaying, restart, direct):
    x, y = diabetes()
    rate = 1 / lipschitz(x)
    schedule = optax.cosine_decay_schedule(rate, 100, alpha=0.3)
    rates = (lambda k: float(schedule(k))) if decaying else lambda k: rate
    solutions, held = published(x, y, 0.05, rates, 80, restart)
    optimizer = jaxreg.fista(schedule if decaying else rate, jaxreg.l1(0.05), restart=restart)
    params, states = run(optimizer, squares(x, y), jnp.zeros(10), 80, direct)
    np.testing.assert_allclose(params, held, atol=1e-12)
    np.testing.assert_allclose(states.solution, solutions, atol=1e-12)
    np.testing.assert_array_equal(states.solution == 0, np.stack(solutions) == 0)
    assert (min(states.t[5:]) == 1) == restart  # there were restarts to test


def searched(
    value: Callable[[np.ndarray], float],
    gradient: Callable[[np.ndarray], np.ndarray],
    strength: float,
    start: np.ndarray,
    first: float,
    steps: int,
) -> tuple[np.ndarray, ...]:
    """The search of the docstring, with the momentum of Scheinberg, Goldfarb and Bai 2014."""
    old = y = start
    t, step, found = 1.0, first, []
    for _ in range(steps):
        g = gradient(y)
        while True:
            new = soft(y - step * g, step * strength)
            d = new - y
            curvature = 2 * (value(new) - value(y) - g @ d) / (d @ d)
            if step * curvature <= 1:
                break
            step = max(0.8 / curvature, step / 10)
        longest = 0.8 / curvature if curvature > 0 else np.inf
        fresh = (y - new) @ (new - old) > 0 or (t < 2 and longest > 100 * step)
        t = 1.0 if fresh else t
        free = longest if curvature > 0 else 2 * step
        following = min(longest, (1 + 1 / t**2) * step) if t > 1 else free
        t_next = 1.0 if fresh else (1 + np.sqrt(1 + 4 * t**2 * step / following)) / 2
        y = new if fresh else new + (t - 1) / t_next * (new - old)
        old, t, step = new, t_next, following
        found.append((step, new, y))
    return tuple(np.stack(part) for part in zip(*found, strict=True))


@double
@pytest.mark.parametrize("first", [1e-3, 1.0, 1e4])
def test_backtracking_is_the_documented_recursion(first):
    x, sign = cancer()
    value = lambda w: np.mean(np.logaddexp(0, -sign * (x @ w)))  # noqa: E731
    gradient = lambda w: x.T @ (-sign / (1 + np.exp(sign * (x @ w)))) / len(sign)  # noqa: E731
    sizes, solutions, held = searched(value, gradient, 0.02, np.zeros(30), first, 25)
    optimizer = jaxreg.fista(first, jaxreg.l1(0.02), backtracking=True)
    params, states = run(optimizer, logistic(x, sign), jnp.zeros(30), 25)
    np.testing.assert_allclose(states.step_size, sizes, rtol=1e-6)
    np.testing.assert_allclose(states.solution, solutions, atol=1e-7)
    np.testing.assert_allclose(params, held, atol=1e-7)
    assert max(sizes) > first if first < 1 else min(sizes) < first


# Bad first step sizes


def test_a_first_step_size_far_below_the_curvature_of_a_badly_scaled_problem():
    x = 1e-3 * np.random.default_rng(0).normal(size=(200, 20))
    loss, penalty = squares(jnp.asarray(x), jnp.asarray(x @ np.ones(20) * 1e3)), jaxreg.l1(1e-4)
    params, states = run(jaxreg.fista(1.0, penalty, backtracking=True), loss, jnp.zeros(20), 200)
    assert violations(penalty, loss, params).min() < 1e-8
    assert states.step_size[-1] > 1e5


@pytest.mark.parametrize("precise", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("share", [1e-1, 1e-4, 1e-8])
def test_short_first_steps_grow(request, precise, share):
    # In float32 the shortest moves are too short for any curvature to be seen.
    if precise:
        request.getfixturevalue("x64")
    x, y = diabetes()
    loss, penalty = squares(jnp.asarray(x), jnp.asarray(y)), jaxreg.l1(0.05)
    optimizer = jaxreg.fista(share / lipschitz(x), penalty, backtracking=True)
    params, _ = run(optimizer, loss, jnp.zeros(10), 100)
    assert violations(penalty, loss, params[60:]).max() < (1e-8 if precise else 1e-6)


@pytest.mark.parametrize("restart", [False, True])
def test_steps_to_infinite_losses_only_are_not_taken(restart):
    loss = lambda w: jnp.sum(jnp.exp(w) - 3 * w)  # noqa: E731
    optimizer = jaxreg.fista(
        1e6, jaxreg.l1(0.1), backtracking=True, max_backtracking_steps=3, restart=restart
    )
    params, states = run(optimizer, loss, jnp.zeros(2), 200)
    assert np.all(np.isfinite(params))
    np.testing.assert_array_equal(params[0], 0)
    np.testing.assert_array_equal(states.solution[0], 0)
    np.testing.assert_allclose(states.step_size[0], 100, rtol=1e-5)
    assert np.all(np.isfinite(states.solution))
    assert states.t[0] == 1
    np.testing.assert_allclose(states.solution[-1], np.log(2.9), rtol=1e-4)  # exp(w) = 3 - 0.1


def test_from_outside_of_the_loss_the_parameters_go_back_to_the_solution():
    loss = lambda w: jnp.sum(-jnp.log(1 - w) - 2 * w)  # noqa: E731
    optimizer, solution = jaxreg.fista(0.1, jaxreg.l1(0.5), backtracking=True), jnp.array([0.9])
    state, outside = optimizer.init(solution), jnp.array([1.1])
    params, state = jaxreg.step(optimizer, jax.grad(loss)(outside), state, outside, value_fn=loss)
    np.testing.assert_array_equal(params, solution)
    np.testing.assert_array_equal(state.solution, solution)
    np.testing.assert_array_equal(state.step_size, jnp.float32(0.1))


# The minimisers


def two_targets() -> tuple[np.ndarray, np.ndarray]:
    x, y = diabetes()
    noise = np.random.default_rng(0).normal(size=y.shape)
    return x, np.stack([y, 0.5 * y + 0.3 * x[:, 3] + 0.3 * noise], axis=1)


def lasso() -> Any:
    x, y = diabetes()
    model = linear_model.Lasso(alpha=0.05, fit_intercept=False, tol=1e-15, max_iter=100_000)
    return squares(x, y), jaxreg.l1(0.05), model.fit(x, y).coef_, lipschitz(x), 1_000


def elastic_net() -> Any:
    x, y = diabetes()
    model = linear_model.ElasticNet(alpha=0.1, l1_ratio=0.7, fit_intercept=False, tol=1e-15, max_iter=100_000)
    curvature = lipschitz(x)
    return squares(x, y), jaxreg.elastic_net(0.1, 0.7), model.fit(x, y).coef_, curvature, 1_000


def multi_task_lasso() -> Any:
    x, y = two_targets()
    model = linear_model.MultiTaskLasso(alpha=0.1, fit_intercept=False, tol=1e-15, max_iter=100_000)
    penalty = jaxreg.group_lasso(0.1, groups.inputs(), size_weights=False)
    return squares(x, y), penalty, model.fit(x, y).coef_.T, lipschitz(x), 1_000


def sparse_logistic() -> Any:
    x, sign = cancer()
    model = linear_model.LogisticRegression(
        C=1 / (0.05 * len(sign)), l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-12
    )
    coefficients = model.set_params(max_iter=100_000).fit(x, sign).coef_[0]
    return logistic(x, sign), jaxreg.l1(0.05), coefficients, lipschitz(x) / 4, 10_000


PROBLEMS = [lasso, elastic_net, multi_task_lasso, sparse_logistic]


@double
@variants
@pytest.mark.parametrize("problem", PROBLEMS)
def test_stops_at_the_minimiser_of_loss_and_penalty(problem, variant):
    loss, penalty, reference, curvature, steps = problem()
    options = VARIANTS[variant]
    optimizer = jaxreg.fista(1.0 if "backtracking" in options else 1 / curvature, penalty, **options)
    params, states = run(optimizer, loss, jnp.zeros(reference.shape), steps)
    for found in (params[-1], states.solution[-1]):
        assert violations(penalty, loss, found[None]) < 1e-8
        np.testing.assert_allclose(found, reference, atol=1e-6)
        np.testing.assert_array_equal(found == 0, reference == 0)
    assert 0 < np.count_nonzero(reference) < reference.size


@double
@pytest.mark.parametrize("problem", PROBLEMS)
def test_restarts_and_backtracking_save_steps(problem):
    loss, penalty, reference, curvature, steps = problem()
    needed = {}
    for variant, options in VARIANTS.items():
        optimizer = jaxreg.fista(1.0 if "backtracking" in options else 1 / curvature, penalty, **options)
        params, _ = run(optimizer, loss, jnp.zeros(reference.shape), steps)
        needed[variant] = np.flatnonzero(violations(penalty, loss, params) < 1e-8)[0]
    assert 2 * needed["constant"] < needed["constant, no restart"]
    assert needed["backtracking"] < needed["constant"]


@pytest.mark.parametrize("precise", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("strength", [0.0, 0.05])
def test_backtracking_reaches_full_precision_and_stays(request, precise, strength):
    # Where differences of losses are all rounding, step sizes must neither run away nor collapse.
    if precise:
        request.getfixturevalue("x64")
    x, y = diabetes()
    loss, penalty = squares(jnp.asarray(x), jnp.asarray(y)), jaxreg.l1(strength)
    params, states = run(jaxreg.fista(1.0, penalty, backtracking=True), loss, jnp.zeros(10), 3_000)
    assert violations(penalty, loss, params[1_000:]).max() < (1e-11 if precise else 1e-6)
    sizes = states.step_size[1_000:] * lipschitz(x)
    assert sizes.min() > 0.02
    assert sizes.max() < 100


@double
@pytest.mark.parametrize("first", [1e-2, 10.0])
def test_growing_steps_keep_the_rate_of_convergence(first):
    """``t^2 s (F - F*) <= ||w_0 - w*||^2 / 2``: theorem 4.4 of Beck and Teboulle, with steps that change."""
    x, sign = cancer()
    loss, penalty = logistic(x, sign), jaxreg.l1(0.002)
    params, _ = run(jaxreg.fista(10.0, penalty, backtracking=True), loss, jnp.zeros(30), 6_000)
    best = params[-1]
    assert violations(penalty, loss, best[None]) < 1e-9
    optimizer = jaxreg.fista(first, penalty, backtracking=True, restart=False)
    _, states = run(optimizer, loss, jnp.zeros(30), 300)
    excess = jax.vmap(lambda w: loss(w) + penalty(w))(states.solution) - loss(best) - penalty(best)
    # The next t' and step size s' obey ``(t'^2 - t') s' = t^2 s``.
    weights = (states.t**2 - states.t) * states.step_size
    assert np.all(weights * excess <= best @ best / 2)
    assert weights[-1] > 1_000 * weights[0]


def test_steps_out_of_the_loss_are_taken_back():
    def loss(w):  # defined below 1 only
        return jnp.sum(-jnp.log(1 - w) - 2 * w)

    optimizer = jaxreg.fista(100.0, jaxreg.l1(0.5), backtracking=True)
    params, _ = run(optimizer, loss, jnp.zeros(3), 60)
    np.testing.assert_allclose(params[-1], 1 / 3, rtol=1e-5)  # 1 / (1 - w) = 2 - 0.5
    assert np.all(params < 1)


def test_most_backtracking_steps():
    loss = lambda w: 50.0 * jnp.sum(w**2)  # noqa: E731
    start = jnp.ones(2)
    for most, factor in ((0, 10.0), (1, 1.0), (2, 0.1), (3, 0.01), (9, 0.008)):
        optimizer = jaxreg.fista(10.0, jaxreg.l2(0.0), backtracking=True, max_backtracking_steps=most)
        params, _ = jaxreg.step(optimizer, 100 * start, optimizer.init(start), start, value_fn=loss)
        np.testing.assert_allclose(params, 1 - 100 * factor, rtol=1e-4, atol=1e-4)
