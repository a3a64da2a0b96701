"""LinBreg and AdaBreg: the published recursions in NumPy, and the growth that they are for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import apply, assert_close, assert_same_bits, gradients, parameters, train
from scipy.optimize import linprog

import jaxreg
from jaxreg import groups, masks
from jaxreg.group_kinds import Cluster, Groups

double = pytest.mark.usefixtures("x64")

# The recursions


def soft(x: np.ndarray, threshold: float) -> np.ndarray:
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)


def shrink_columns(x: np.ndarray, threshold: float) -> np.ndarray:
    out = np.zeros_like(x)
    for j in range(x.shape[1]):
        norm = np.linalg.norm(x[:, j])
        if norm > threshold:
            out[:, j] = x[:, j] * (1 - threshold / norm)
    return out


def column_directions(w: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(w, axis=0)
    return np.divide(w, norms, out=np.zeros_like(w), where=norms > 0)


@dataclasses.dataclass(frozen=True)
class J:
    """A penalty, its prox at a step and one of its subgradients."""

    name: str
    penalty: jaxreg.Penalty
    prox: Callable[[np.ndarray, float], np.ndarray]
    subgradient: Callable[[np.ndarray], np.ndarray]

    def __str__(self) -> str:
        return self.name


ROOT = np.sqrt(6)  # of the number of rows
FUNCTIONS = [
    J("l1", jaxreg.l1(0.5), lambda x, s: soft(x, 0.5 * s), lambda w: 0.5 * np.sign(w)),
    J(
        "elastic_net",
        jaxreg.elastic_net(0.5, 0.6),
        lambda x, s: soft(x, 0.3 * s) / (1 + 0.2 * s),
        lambda w: 0.3 * np.sign(w) + 0.2 * w,
    ),
    J(
        "group_lasso",
        jaxreg.group_lasso(0.4, groups.outputs()),
        lambda x, s: shrink_columns(x, 0.4 * ROOT * s),
        lambda w: 0.4 * ROOT * column_directions(w),
    ),
    J(
        "sparse_group_lasso",
        jaxreg.sparse_group_lasso(0.5, groups.outputs(), 0.4),
        lambda x, s: shrink_columns(soft(x, 0.2 * s), 0.3 * ROOT * s),
        lambda w: 0.2 * np.sign(w) + 0.3 * ROOT * column_directions(w),
    ),
    J(
        "l1 + l2",
        jaxreg.l1(0.5) + jaxreg.l2(0.1),
        lambda x, s: soft(x, 0.5 * s) / (1 + 0.2 * s),
        lambda w: 0.5 * np.sign(w) + 0.2 * w,
    ),
]
functions = pytest.mark.parametrize("function", FUNCTIONS, ids=str)
settings = pytest.mark.parametrize(
    ("start", "delta", "take"),
    [("zeros", 1.0, "update"), ("sparse", 0.5, "step"), ("sparse", 3.0, "update")],
)

RATES = np.array([0.3, 0.25, 0.0, 0.4, 0.3, 0.2, 0.3, 0.1])


def schedule(count: Any) -> Any:
    return jnp.asarray(RATES)[count]


def problem(start: str) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Six inputs, three outputs: the first weights, and the gradient of a least-squares loss."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)), 3 * rng.normal(size=(20, 3))
    w = np.zeros((6, 3))
    if start == "sparse":
        w[[0, 3, 3], [0, 0, 2]] = [1.2, -0.3, 0.02]
    return w, lambda w: x.T @ (x @ w - y) / 20


def run(optimizer: optax.GradientTransformation, start: str, take: str) -> list[np.ndarray]:
    w, gradient = problem(start)
    advance = apply(optimizer) if take == "update" else lambda g, s, w: jaxreg.step(optimizer, g, s, w)
    update, params, path = jax.jit(advance), jnp.asarray(w), []
    state = optimizer.init(params)
    for _ in RATES:
        params, state = update(jnp.asarray(gradient(np.asarray(params))), state, params)
        path.append(np.asarray(params))
    return path


def assert_same_path(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(np.asarray(actual) == 0, np.asarray(expected) == 0)
    assert 0 < np.mean(np.asarray(expected) == 0) < 1


@double
@functions
@settings
def test_linbreg_is_algorithm_1(function: J, start: str, delta: float, take: str) -> None:
    w, gradient = problem(start)
    v, expected = w / delta + function.subgradient(w), []
    for rate in RATES:
        v = v - rate * gradient(w)
        w = function.prox(delta * v, delta)
        expected.append(w)
    assert_same_path(run(jaxreg.linbreg(schedule, function.penalty, delta=delta), start, take), expected)


@double
@functions
def test_linbreg_with_momentum_is_algorithm_2(function: J) -> None:
    w, gradient = problem("sparse")
    v, m, expected = w + function.subgradient(w), np.zeros_like(w), []
    for _ in RATES:
        m = 0.8 * m + (1 - 0.8) * 0.7 * gradient(w)
        v = v - m
        w = function.prox(v, 1.0)
        expected.append(w)
    optimizer = jaxreg.linbreg(0.7 * (1 - 0.8), function.penalty, momentum=0.8)
    assert_same_path(run(optimizer, "sparse", "update"), expected)


@double
def test_linbreg_with_nesterov_momentum_is_the_step_of_optax() -> None:
    function = FUNCTIONS[0]
    w, gradient = problem("sparse")
    v, m, expected = w + function.subgradient(w), np.zeros_like(w), []
    for rate in RATES:
        g = gradient(w)
        m = 0.8 * m + g
        v = v - rate * (g + 0.8 * m)
        w = function.prox(v, 1.0)
        expected.append(w)
    optimizer = jaxreg.linbreg(schedule, function.penalty, momentum=0.8, nesterov=True)
    assert_same_path(run(optimizer, "sparse", "update"), expected)


@double
@functions
@settings
def test_adabreg_is_algorithm_3(function: J, start: str, delta: float, take: str) -> None:
    w, gradient = problem(start)
    v, expected = w / delta + function.subgradient(w), []
    first, second = np.zeros_like(w), np.zeros_like(w)
    for step, rate in enumerate(RATES, start=1):
        g = gradient(w)
        first = 0.7 * first + 0.3 * g
        second = 0.9 * second + 0.1 * g**2
        v = v - rate * (first / (1 - 0.7**step)) / (np.sqrt(second / (1 - 0.9**step)) + 1e-6)
        w = function.prox(delta * v, delta)
        expected.append(w)
    optimizer = jaxreg.adabreg(schedule, function.penalty, b1=0.7, b2=0.9, eps=1e-6, delta=delta)
    assert_same_path(run(optimizer, start, take), expected)


# The start


@functions
@pytest.mark.parametrize("delta", [0.1, 1.0, 30.0])
def test_without_a_gradient_the_weights_stay(function: J, delta: float) -> None:
    """The first dual variable is one of which the prox makes the first weights."""
    params = jnp.asarray(problem("sparse")[0], jnp.float32)
    optimizer = jaxreg.linbreg(0.1, function.penalty, delta=delta)
    new, _ = jaxreg.step(optimizer, jnp.zeros_like(params), optimizer.init(params), params)
    # To the rounding of delta times strength, which is added and taken away.
    np.testing.assert_allclose(new, params, rtol=1e-6, atol=2e-7 * (1 + 2 * delta))
    np.testing.assert_array_equal(new == 0, params == 0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (jaxreg.linbreg(0.1, jaxreg.l1(0.0), momentum=0.9), optax.sgd(0.1, momentum=0.9)),
        (jaxreg.adabreg(0.1, jaxreg.l1(0.0)), optax.adam(0.1)),
    ],
    ids=["linbreg", "adabreg"],
)
def test_without_a_penalty_it_is_the_inner_optimizer(ours: Any, theirs: Any) -> None:
    expected, _ = train(theirs, gradients(), parameters())
    assert_close(train(ours, gradients(), parameters())[0], expected, rtol=1e-5, atol=1e-6)


# What it is for


@double
def test_basis_pursuit_the_loss_falls_while_the_support_grows() -> None:
    """40 noiseless equations for 100 unknowns, 6 of them non-zero, against a linear program."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 100)) / np.sqrt(40)
    truth = np.zeros(100)
    truth[rng.choice(100, 6, replace=False)] = rng.normal(size=6) + np.sign(rng.normal(size=6))
    b = a @ truth
    split = linprog(np.ones(200), A_eq=np.hstack([a, -a]), b_eq=b).x
    optimizer = jaxreg.linbreg(1 / np.linalg.norm(a, 2) ** 2, jaxreg.l1(50.0))

    def body(carry: Any, _: None) -> Any:
        x, state = carry
        residual = a @ x - b
        return jaxreg.step(optimizer, a.T @ residual, state, x), (residual @ residual, jnp.sum(x != 0))

    x = jnp.zeros(100)
    (x, _), (losses, counts) = jax.jit(lambda c: jax.lax.scan(body, c, None, length=4000))(
        (x, optimizer.init(x))
    )
    np.testing.assert_allclose(x, split[:100] - split[100:], atol=1e-8)
    np.testing.assert_array_equal(np.asarray(x) != 0, truth != 0)
    losses, counts = np.asarray(losses), np.asarray(counts)
    assert losses[-1] < 1e-15
    assert np.all(np.diff(losses) < 1e-12)
    assert set(counts.tolist()) == set(range(7))
    assert np.sum(np.diff(counts) < 0) <= 1
    # The lasso of this strength is all zero: strength delays here, it does not shrink.
    assert float(jaxreg.l1(50.0).optimality(jnp.zeros(100), -a.T @ b).max()) == 0


# Leaves, dtypes, state


def test_out_of_reach_is_the_inner_optimizer_to_the_bit_and_has_no_dual() -> None:
    params, grads = parameters(), gradients()
    for make, inner in (
        (lambda p: jaxreg.linbreg(0.1, p, momentum=0.9, delta=3.0), optax.sgd(0.1, momentum=0.9)),
        (lambda p: jaxreg.adabreg(0.1, p, delta=3.0), optax.adam(0.1)),
    ):
        optimizer = make(jaxreg.l1(0.1, mask=masks.weights))
        actual, state = train(optimizer, grads, params, jax.jit)
        expected, inner_state = train(inner, grads, params, jax.jit)
        assert_same_bits(actual["layer"]["bias"], expected["layer"]["bias"])
        assert [leaf.shape for leaf in jax.tree.leaves(state.dual)] == [(4, 3)]
        chex.assert_trees_all_equal_structs(state.inner, inner_state)


def test_states_of_nnx_as_they_are() -> None:
    """With its boxes around the arrays, at init and at update; the bias is out of reach."""
    linear = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    params = nnx.state(linear, nnx.Param)
    optimizer = jaxreg.linbreg(0.1, jaxreg.l1(0.1, mask=masks.weights))
    grads = jax.tree.map(jnp.ones_like, params)
    new, state = train(optimizer, [grads, grads], params, jax.jit)
    pure, pure_grads = nnx.to_pure_dict(params), nnx.to_pure_dict(grads)
    expected, _ = train(optimizer, [pure_grads, pure_grads], pure, jax.jit)
    assert_close(nnx.to_pure_dict(new), expected)
    assert [leaf.shape for leaf in jax.tree.leaves(state.dual)] == [(4, 3)]


def test_small_steps_add_up_in_narrow_parameters() -> None:
    """300 steps of 1e-3: bfloat16 at 1 would lose every one of them."""
    params = jnp.ones(2, jnp.bfloat16)
    optimizer = jaxreg.linbreg(1e-3, jaxreg.l1(1.0))
    state = optimizer.init(params)
    assert state.dual.dtype == jnp.float32
    for take in (apply(optimizer), lambda g, s, p: jaxreg.step(optimizer, g, s, p)):
        new, current = params, state
        for _ in range(300):
            new, current = jax.jit(take)(jnp.ones(2, jnp.bfloat16), current, new)
        assert new.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(new, np.float32), 0.7, rtol=4e-3)


@dataclasses.dataclass(frozen=True)
class Joined(Groups):
    """Columns of all chosen leaves together."""

    def resolve(self, flat: Any, selected: Any) -> tuple[Cluster, ...]:
        return (tuple((index, groups.outputs().view(index, flat)) for index in selected),)


def test_a_frozen_leaf_keeps_its_weights_and_counts_in_its_groups() -> None:
    params = {"a": jnp.array([[3.0, 0.0]]), "b": jnp.array([[4.0, 0.0]])}
    optimizer = jaxreg.linbreg(0.1, jaxreg.group_lasso(1.0, Joined(), size_weights=False))
    grads = {"a": None, "b": jnp.array([[-10.0, 0.0]])}
    new, state = jaxreg.step(optimizer, grads, optimizer.init(params), params)
    assert_same_bits(new["a"], params["a"])
    dual = np.array([3.6, 4.8 + 1.0])  # w (1 + 1 / ||w||), then b's step
    np.testing.assert_allclose(state.dual["b"], [[dual[1], 0.0]], rtol=1e-6)
    np.testing.assert_allclose(new["b"], [[dual[1] * (1 - 1 / np.linalg.norm(dual)), 0.0]], rtol=1e-6)


@double
@pytest.mark.parametrize("make", [jaxreg.linbreg, jaxreg.adabreg])
def test_derivative_in_strength(make: Any) -> None:
    start, gradient = problem("sparse")

    def trained(strength: Any) -> Any:
        optimizer = make(0.2, jaxreg.sparse_group_lasso(strength, groups.outputs(), 0.5))

        def body(carry: Any, _: None) -> Any:
            w, state = carry
            return jaxreg.step(optimizer, gradient(w), state, w), None

        w = jnp.asarray(start)
        (w, _), _ = jax.lax.scan(body, (w, optimizer.init(w)), None, length=10)
        return jnp.sum(w**3)

    small, trained = 1e-6, jax.jit(trained)
    difference = (trained(0.23 + small) - trained(0.23 - small)) / (2 * small)
    assert abs(difference) > 1e-2
    np.testing.assert_allclose(jax.jit(jax.grad(trained))(0.23), difference, rtol=1e-5)


# Words


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: jaxreg.linbreg(0.1, jaxreg.l1(1.0), delta=0.0),
            ValueError,
            "The 'delta' parameter of linbreg must be a positive number. Got 0.0.",
        ),
        (
            lambda: jaxreg.adabreg(0.1, jaxreg.l1(1.0), delta=-1),
            ValueError,
            "The 'delta' parameter of adabreg must be a positive number. Got -1.0.",
        ),
        (
            lambda: jaxreg.linbreg(0.1, jaxreg.l1(1.0), momentum=1.0),
            ValueError,
            "The 'momentum' parameter of linbreg must be a number in [0, 1). Got 1.0.",
        ),
        (
            lambda: jaxreg.linbreg(-0.1, jaxreg.l1(1.0)),
            ValueError,
            "The 'learning_rate' parameter of linbreg must be a non-negative number. Got -0.1.",
        ),
        (
            lambda: jaxreg.adabreg(0.1, jaxreg.l1(1.0), b2=1.0),
            ValueError,
            "The 'b2' parameter of adabreg must be a number in [0, 1). Got 1.0.",
        ),
        (lambda: jaxreg.linbreg(0.1, 1.0), TypeError, "The 'penalty' parameter of linbreg must be a"),
        (lambda: jaxreg.adabreg(0.1, None), TypeError, "The 'penalty' parameter of adabreg must be a"),
        (
            lambda: jaxreg.linbreg(0.1, jaxreg.group_lasso(1.0, groups.outputs())).init(parameters()),
            ValueError,
            "'layer/bias'",
        ),
    ],
)
def test_bad_arguments(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)
