"""The law of loss units: run to convergence, an optimizer stops at a minimiser of loss + penalty."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from skglm.datafits import QuadraticGroup
from skglm.penalties import WeightedGroupL2
from skglm.solvers import GroupBCD
from skglm.utils.data import grp_converter
from sklearn import datasets, linear_model

import jaxreg
from jaxreg import groups

pytestmark = pytest.mark.usefixtures("x64")


@dataclasses.dataclass(frozen=True)
class Row:
    """An optimizer with its own learning rate and number of steps."""

    name: str
    make: Callable[[jaxreg.Penalty, int], optax.GradientTransformation]
    """From a penalty and the number of steps."""
    steps: int

    def __str__(self) -> str:
        return self.name


def decaying(rate: float, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(rate, steps, alpha=0.2)


OPTIMIZERS = [
    Row("prox_sgd", lambda p, n: jaxreg.prox_sgd(0.2, p), 4_000),
    Row("prox_sgd[decaying]", lambda p, n: jaxreg.prox_sgd(decaying(0.2, n), p), 6_000),
    Row("prox_sgd[momentum]", lambda p, n: jaxreg.prox_sgd(0.02, p, momentum=0.9), 4_000),
    Row(
        "prox_sgd[momentum, decaying]",
        lambda p, n: jaxreg.prox_sgd(decaying(0.02, n), p, momentum=0.9),
        6_000,
    ),
    Row("prox_sgd[nesterov]", lambda p, n: jaxreg.prox_sgd(0.02, p, momentum=0.9, nesterov=True), 4_000),
    Row("prox_adam", lambda p, n: jaxreg.prox_adam(0.01, p), 12_000),
    Row("prox_adam[decaying]", lambda p, n: jaxreg.prox_adam(decaying(0.01, n), p), 12_000),
    Row("prox_adam[nesterov]", lambda p, n: jaxreg.prox_adam(0.01, p, nesterov=True), 12_000),
]
rows = pytest.mark.parametrize("row", OPTIMIZERS, ids=str)


@functools.cache
def diabetes() -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_diabetes(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


@functools.cache
def two_targets() -> tuple[np.ndarray, np.ndarray]:
    """Diabetes with a second target, for groups of coefficients."""
    x, y = diabetes()
    noise = np.random.default_rng(0).normal(size=y.shape)
    return x, np.stack([y, 0.5 * y + 0.3 * x[:, 3] + 0.3 * noise], axis=1)


def squares(x: np.ndarray, y: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    return lambda w: jnp.sum((x @ w - y) ** 2) / (2 * len(y))


def converge(
    row: Row,
    penalty: jaxreg.Penalty,
    loss: Callable[[jax.Array], jax.Array],
    shape: tuple[int, ...],
    direct: bool = False,
) -> np.ndarray:
    optimizer = row.make(penalty, row.steps)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        w, state = carry
        grads = jax.grad(loss)(w)
        if direct:
            return jaxreg.step(optimizer, grads, state, w), None
        updates, state = optimizer.update(grads, state, w)
        return (optax.apply_updates(w, updates), state), None

    w = jnp.zeros(shape)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=row.steps)[0])
    w, _ = run((w, optimizer.init(w)))
    worst = jax.tree.reduce(jnp.maximum, jax.tree.map(jnp.max, penalty.optimality(w, jax.grad(loss)(w))))
    assert worst < 1e-6
    return np.asarray(w)


def assert_same_model(found: np.ndarray, reference: np.ndarray) -> None:
    np.testing.assert_allclose(found, reference, atol=1e-6)
    np.testing.assert_array_equal(found == 0, reference == 0)
    assert (reference == 0).any()
    assert (reference != 0).any()


@rows
@pytest.mark.parametrize("direct", [False, True], ids=["update", "step"])
def test_lasso_is_sklearns(row: Row, direct: bool) -> None:
    x, y = diabetes()
    reference = (
        linear_model.Lasso(alpha=0.05, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
    )
    assert_same_model(converge(row, jaxreg.l1(0.05), squares(x, y), (10,), direct), reference)


@rows
def test_elastic_net_is_sklearns(row: Row) -> None:
    x, y = diabetes()
    model = linear_model.ElasticNet(alpha=0.1, l1_ratio=0.7, fit_intercept=False, tol=1e-14, max_iter=100_000)
    reference = model.fit(x, y).coef_
    assert_same_model(converge(row, jaxreg.elastic_net(0.1, 0.7), squares(x, y), (10,)), reference)
    parts = jaxreg.l1(0.1 * 0.7) + jaxreg.l2(0.1 * 0.3 / 2)
    assert_same_model(converge(row, parts, squares(x, y), (10,)), reference)


@rows
@pytest.mark.parametrize("direct", [False, True], ids=["update", "step"])
def test_group_lasso_is_sklearns(row: Row, direct: bool) -> None:
    """Rows of coefficients as groups are scikit-learn's multi-task lasso."""
    x, y = two_targets()
    model = linear_model.MultiTaskLasso(alpha=0.1, fit_intercept=False, tol=1e-14, max_iter=100_000)
    reference = model.fit(x, y).coef_.T
    penalty = jaxreg.group_lasso(0.1, groups.inputs(), size_weights=False)
    assert_same_model(converge(row, penalty, squares(x, y), (10, 2), direct), reference)


@functools.cache
def pairs_by_block_descent(strength: float) -> np.ndarray:
    """Group lasso over pairs of coefficients by block coordinate descent, in NumPy."""
    x, y = diabetes()
    w = np.zeros(10)
    for _ in range(3_000):
        for pair in np.arange(10).reshape(5, 2):
            block = x[:, pair]
            size = np.linalg.norm(block, 2) ** 2 / len(y)
            point = w[pair] - block.T @ (x @ w - y) / len(y) / size
            norm = np.linalg.norm(point)
            w[pair] = point * max(1 - strength * np.sqrt(2.0) / size / norm, 0) if norm else 0
    return w


@rows
def test_group_lasso_with_weights_is_block_descents(row: Row) -> None:
    x, y = diabetes()
    found = converge(row, jaxreg.group_lasso(0.1, groups.chunks(2, axis=0)), squares(x, y), (10,))
    assert_same_model(found, pairs_by_block_descent(0.1))


@pytest.mark.filterwarnings("ignore:.*is faster on contiguous arrays")  # skglm's own code
def test_group_lasso_with_weights_is_skglms() -> None:
    x, y = diabetes()
    indices, borders = grp_converter([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], 10)
    datafit = QuadraticGroup(borders, indices)
    penalty = WeightedGroupL2(0.1, np.full(5, np.sqrt(2.0)), borders, indices)
    datafit.initialize(x, y)
    reference = GroupBCD(tol=1e-12, fit_intercept=False, max_iter=10_000).solve(x, y, datafit, penalty)[0]
    found = converge(OPTIMIZERS[2], jaxreg.group_lasso(0.1, groups.chunks(2, axis=0)), squares(x, y), (10,))
    assert_same_model(found, reference)


@rows
def test_sparse_group_lasso_satisfies_its_optimality(row: Row) -> None:
    x, y = two_targets()
    penalty = jaxreg.sparse_group_lasso(0.12, groups.inputs(), 0.5)
    found = converge(row, penalty, squares(x, y), (10, 2))
    assert (found == 0).any()
    assert (found != 0).any()


@functools.cache
def sklearn_logistic(strength: float) -> np.ndarray:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    model = linear_model.LogisticRegression(
        C=1 / (strength * len(y)), l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-12
    )
    return model.set_params(max_iter=100_000).fit((x - x.mean(0)) / x.std(0), y).coef_[0]


@rows
def test_logistic_regression_is_sklearns(row: Row) -> None:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x, sign = (x - x.mean(0)) / x.std(0), 2.0 * y - 1
    loss = lambda w: jnp.mean(jnp.logaddexp(0.0, -sign * (x @ w)))  # noqa: E731
    longer = dataclasses.replace(row, steps=12 * row.steps)
    assert_same_model(converge(longer, jaxreg.l1(0.05), loss, (30,)), sklearn_logistic(0.05))


def test_a_plain_prox_behind_adam_or_momentum_solves_another_problem() -> None:
    """The reason for loss units, measured: errors of 0.1 and more in the coefficients."""
    x, y = diabetes()
    reference = linear_model.Lasso(alpha=0.05, fit_intercept=False, tol=1e-14).fit(x, y).coef_
    for inner, rate, wrong_by in (
        (optax.adam, 0.01, 0.3),
        (functools.partial(optax.sgd, momentum=0.9), 0.02, 0.05),
    ):
        optimizer = optax.chain(inner(rate), jaxreg.proximal(jaxreg.l1(0.05), rate))
        w, loss = jnp.zeros(10), squares(x, y)

        def step(carry: Any, _: None, optimizer: Any = optimizer, loss: Any = loss) -> tuple[Any, None]:
            updates, state = optimizer.update(jax.grad(loss)(carry[0]), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        w, _ = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, None, length=6_000)[0])(
            (w, optimizer.init(w))
        )
        assert np.max(np.abs(w - reference)) > wrong_by
