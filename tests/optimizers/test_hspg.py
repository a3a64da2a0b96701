"""HSPG: the published recursion in NumPy, zeros that stay, and more of them than the prox finds in noise."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply, assert_same_bits, gradients, parameters, train

import jaxreg
from jaxreg import groups, masks
from jaxreg.group_kinds import Cluster, Groups

double = pytest.mark.usefixtures("x64")

# The recursion

RATES = np.array([0.3, 0.2, 0.3, 0.4, 0.0, 0.5, 0.5, 0.4, 0.6, 0.6])
SHAPE = (6, 4)
LABELS = {
    "outputs": (groups.outputs(), np.broadcast_to(np.arange(4), SHAPE)),
    "inputs": (groups.inputs(), np.broadcast_to(np.arange(6)[:, None], SHAPE)),
    "ragged chunks": (
        groups.chunks(4, axis=0, ragged=True),
        np.indices(SHAPE)[0] // 4 * 4 + np.indices(SHAPE)[1],
    ),
    "elements": (groups.blocks((1,)), np.arange(24).reshape(SHAPE)),
}


def schedule(count: Any) -> Any:
    return jnp.asarray(RATES)[count]


def problem() -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(30, 6)), rng.normal(size=SHAPE)
    y = x[:, :2] @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(30, 4))
    w[:, 1] = 0
    w[5] = 0
    return w, lambda w: x.T @ (x @ w - y) / 30


def recursion(
    labels: np.ndarray, strength: float, begin: int, epsilon: float, momentum: float, weighted: bool
) -> list[np.ndarray]:
    """Group by group, as published; a trace of the loss's gradients where there is momentum."""
    w, gradient = problem()
    trace, path = np.zeros_like(w), []
    for count, rate in enumerate(RATES):
        trace = momentum * trace + gradient(w)
        new = np.zeros_like(w)
        for label in np.unique(labels):
            group = labels == label
            pull = rate / (1 - momentum) * strength * (np.sqrt(group.sum()) if weighted else 1)
            old, norm = w[group], np.linalg.norm(w[group])
            moved = old - rate * trace[group]
            if count < begin:
                length = np.linalg.norm(moved)
                new[group] = moved * (1 - pull / length) if length > pull else 0
            elif norm > 0:
                trial = moved - pull * old / norm
                new[group] = 0 if trial @ old < epsilon * norm**2 else trial
        w = new
        path.append(w)
    return path


@double
@pytest.mark.parametrize(
    ("name", "strength", "begin", "epsilon", "momentum", "weighted", "take"),
    [
        ("outputs", 0.5, 0, 0.0, None, True, "update"),
        ("outputs", 0.5, 4, 0.0, None, True, "step"),
        ("inputs", 0.1, 3, 0.3, None, True, "update"),
        ("inputs", 0.2, 100, 0.0, None, False, "step"),
        ("inputs", 0.1, 2, 0.1, 0.5, False, "update"),
        ("ragged chunks", 0.1, 3, 0.0, 0.5, True, "step"),
        ("elements", 0.1, 2, 0.0, None, True, "update"),
    ],
)
def test_hspg_is_the_published_recursion(
    name: str, strength: float, begin: int, epsilon: float, momentum: Any, weighted: bool, take: str
) -> None:
    structure, labels = LABELS[name]
    expected = recursion(labels, strength, begin, epsilon, momentum or 0.0, weighted)
    penalty = jaxreg.group_lasso(strength, structure, size_weights=weighted)
    optimizer = jaxreg.hspg(schedule, penalty, momentum, begin_step=begin, epsilon=epsilon)
    update = apply(optimizer) if take == "update" else lambda g, s, w: jaxreg.step(optimizer, g, s, w)
    update, (start, gradient) = jax.jit(update), problem()
    w, actual = jnp.asarray(start), []
    state = optimizer.init(w)
    for _ in RATES:
        w, state = update(jnp.asarray(gradient(np.asarray(w))), state, w)
        actual.append(np.asarray(w))
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(np.asarray(actual) == 0, np.asarray(expected) == 0)
    alive = [len(np.unique(labels[w != 0])) for w in (problem()[0], *expected)]
    assert alive[-1] > 0
    assert np.min(np.diff(alive[begin:] if begin < len(RATES) else alive)) < 0  # some die in the last phase


@double
def test_orthants_are_the_half_spaces_of_single_weights() -> None:
    w, g = np.array([1.0, -1.0, 0.3, -0.3, 0.0]), np.array([0.5, 0.5, 2.0, -2.0, 4.0])
    moved = w - 0.4 * (g + 0.1 * np.sign(w))
    expected = np.where(np.sign(moved) == np.sign(w), moved, 0.0)
    penalty = jaxreg.group_lasso(0.1, groups.blocks((1,)))
    new, _ = train(jaxreg.hspg(0.4, penalty, begin_step=0), [jnp.asarray(g)], jnp.asarray(w))
    np.testing.assert_allclose(new, expected, rtol=1e-14)
    assert (expected == 0).sum() == 3


# What it is for


def test_more_zero_groups_than_the_prox_finds_in_noise_at_no_higher_objective() -> None:
    """Least squares from 10 samples at a time, 5 of 40 groups in the truth."""
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(400, 200)), np.zeros((40, 5))
    truth[:5] = rng.normal(size=(5, 5))
    y = jnp.asarray(x @ truth.ravel() + 0.5 * rng.normal(size=400), jnp.float32)
    x = jnp.asarray(x, jnp.float32)
    batches = jnp.asarray(rng.integers(0, 400, size=(4000, 10)))
    penalty = jaxreg.group_lasso(0.1, groups.inputs(), size_weights=False)

    def loss(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((x @ w.ravel() - y) ** 2) / 2

    def trained(optimizer: optax.GradientTransformation) -> tuple[np.ndarray, float]:
        def body(carry: Any, batch: jax.Array) -> Any:
            w, state = carry
            grads = jax.grad(loss)(w, x[batch], y[batch])
            return jaxreg.step(optimizer, grads, state, w), None

        w = jnp.zeros((40, 5))
        (w, _), _ = jax.jit(lambda carry: jax.lax.scan(body, carry, batches))((w, optimizer.init(w)))
        return np.all(np.asarray(w) == 0, axis=1), float(loss(w, x, y) + penalty(w))

    zero, objective = trained(jaxreg.hspg(0.01, penalty, begin_step=2000))
    prox_zero, prox_objective = trained(jaxreg.prox_sgd(0.01, penalty))
    assert objective <= prox_objective
    assert prox_zero.sum() <= 2
    assert zero.sum() >= 30
    assert not zero[:5].any()


# Zero groups, leaves, dtypes


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_zero_groups_stay_zero_and_finite_whatever_the_gradient(dtype: Any) -> None:
    penalty = jaxreg.group_lasso(0.1, groups.inputs())
    for momentum in (None, 0.9):
        optimizer = jaxreg.hspg(0.1, penalty, momentum, begin_step=1)
        w = jnp.array([[1.0, 1.0], [0.0, 0.0]], dtype)
        state, update = optimizer.init(w), jax.jit(apply(optimizer))
        for gradient in ([-1.0, -1.0], [0.0, 0.0], [-3.0, 5.0], [-30.0, 50.0]):
            if state.count == 1:
                w = w.at[1].set(0.0)  # the warm-up has let it in
                assert np.all(w[0] != 0)
            w, state = update(jnp.array([gradient, gradient], dtype), state, w)
            assert np.all(np.isfinite(np.asarray(w, np.float32)))
        np.testing.assert_array_equal(np.asarray(w, np.float32)[1], 0.0)


@pytest.mark.parametrize("size", [1e-30, 1e-44, 1e30])
def test_tiny_and_huge_groups(size: float) -> None:
    """Their squares are beyond the floats."""
    penalty = jaxreg.group_lasso(0.0, groups.inputs())
    w = jnp.array([[3.0, 4.0], [3.0, 4.0]], jnp.float32) * jnp.float32(size)
    grads = jnp.array([[0.5], [1.5]], jnp.float32) * w
    new, _ = train(jaxreg.hspg(1.0, penalty, begin_step=0), [grads], w)
    np.testing.assert_allclose(new[0], w[0] - grads[0], rtol=1e-6)
    np.testing.assert_array_equal(new[1], 0.0)


def test_a_nan_gradient_is_not_hidden() -> None:
    penalty = jaxreg.group_lasso(0.1, groups.inputs())
    grads = jnp.array([[jnp.nan, 1.0], [1.0, 1.0]])
    new, _ = train(jaxreg.hspg(0.1, penalty, begin_step=0), [grads], jnp.ones((2, 2)))
    np.testing.assert_array_equal(np.isnan(new), [[True, False], [False, False]])


def test_out_of_reach_is_sgd_to_the_bit() -> None:
    penalty = jaxreg.group_lasso(0.1, groups.outputs(), mask=masks.weights)
    ours = jaxreg.hspg(0.1, penalty, 0.9, begin_step=1)
    actual, state = train(ours, gradients(), parameters(), jax.jit)
    expected, inner = train(optax.sgd(0.1, momentum=0.9), gradients(), parameters(), jax.jit)
    assert_same_bits(actual["layer"]["bias"], expected["layer"]["bias"])
    assert jax.tree.structure(state.inner) == jax.tree.structure(inner)
    assert state.count == 3


@dataclasses.dataclass(frozen=True)
class Joined(Groups):
    """Columns of all chosen leaves together."""

    def resolve(self, flat: Any, selected: Any) -> tuple[Cluster, ...]:
        return (tuple((index, groups.outputs().view(index, flat)) for index in selected),)


def test_groups_over_several_leaves() -> None:
    penalty = jaxreg.group_lasso(0.5, Joined(), size_weights=False)
    optimizer = jaxreg.hspg(1.0, penalty, begin_step=0)
    params = {"a": jnp.array([[3.0, 3.0]]), "b": jnp.array([[4.0, 4.0]])}
    # Alone the first leaf would pass its half-space in both columns.
    grads = {"a": jnp.array([[4.0, 4.0]]), "b": jnp.array([[-4.0, 3.0]])}
    new, _ = train(optimizer, [grads], params)
    np.testing.assert_allclose(new["a"], [[-1.3, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(new["b"], [[7.6, 0.0]], rtol=1e-6)


@double
def test_derivative_in_strength() -> None:
    start, gradient = problem()

    def trained(strength: Any) -> Any:
        penalty = jaxreg.group_lasso(strength, groups.outputs())
        optimizer = jaxreg.hspg(0.2, penalty, begin_step=3)

        def body(carry: Any, _: None) -> Any:
            w, state = carry
            return jaxreg.step(optimizer, gradient(w), state, w), None

        w = jnp.asarray(start)
        (w, _), _ = jax.lax.scan(body, (w, optimizer.init(w)), None, length=8)
        return jnp.sum(w**3)

    small, trained = 1e-6, jax.jit(trained)
    difference = (trained(0.2 + small) - trained(0.2 - small)) / (2 * small)
    assert abs(difference) > 1e-2
    np.testing.assert_allclose(jax.jit(jax.grad(trained))(0.2), difference, rtol=1e-5)


# Words

COLUMNS = jaxreg.group_lasso(0.1, groups.outputs())
KIND = (
    "The 'penalty' parameter of hspg must be a jaxreg.group_lasso, whose groups it projects. Got the penalty"
)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: jaxreg.hspg(0.1, jaxreg.l1(0.1), begin_step=0), TypeError, f"{KIND} l1."),
        (lambda: jaxreg.hspg(0.1, COLUMNS + jaxreg.l1(0.1), begin_step=0), TypeError, f"{KIND} sum."),
        (
            lambda: jaxreg.hspg(0.1, jaxreg.sparse_group_lasso(0.1, groups.outputs(), 0.5), begin_step=0),
            TypeError,
            f"{KIND} sparse_group_lasso.",
        ),
        (lambda: jaxreg.hspg(0.1, 0.1, begin_step=0), TypeError, "must be a jaxreg.Penalty"),
        (
            lambda: jaxreg.hspg(0.1, COLUMNS, begin_step=-1),
            ValueError,
            "The 'begin_step' parameter of hspg must be a non-negative whole number. Got -1.",
        ),
        (
            lambda: jaxreg.hspg(0.1, COLUMNS, begin_step=0, epsilon=1.0),
            ValueError,
            "The 'epsilon' parameter of hspg must be a number in [0, 1). Got 1.0.",
        ),
        (
            lambda: jaxreg.hspg(0.1, COLUMNS, 1.0, begin_step=0),
            ValueError,
            "The 'momentum' parameter of hspg must be a number in [0, 1). Got 1.0.",
        ),
        (
            lambda: jaxreg.hspg(-1, COLUMNS, begin_step=0),
            ValueError,
            "The 'learning_rate' parameter of hspg must be a non-negative number. Got -1.0.",
        ),
        (lambda: jaxreg.hspg(0.1, COLUMNS, begin_step=0).init(parameters()), ValueError, "'layer/bias'"),
    ],
)
def test_bad_arguments(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)
