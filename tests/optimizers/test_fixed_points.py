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
from convex_problems import PENALISED, Weights, diabetes, lasso, loss, zero_weights

import jaxreg

pytestmark = [
    pytest.mark.usefixtures("x64"),
    pytest.mark.filterwarnings("ignore:.*is faster on contiguous arrays"),  # skglm's own code
]


@dataclasses.dataclass(frozen=True)
class Row:
    """An optimizer with a learning rate and a number of steps of its own."""

    name: str
    make: Callable[[Any, jaxreg.Penalty], optax.GradientTransformation]
    rate: float
    steps: int = 3_000

    def __str__(self) -> str:
        return self.name


OPTIMIZERS = [
    Row("prox_sgd", jaxreg.prox_sgd, 0.4, 9_000),
    Row("prox_sgd[momentum]", functools.partial(jaxreg.prox_sgd, momentum=0.9), 0.06, 5_000),
    Row("prox_sgd[nesterov]", functools.partial(jaxreg.prox_sgd, momentum=0.9, nesterov=True), 0.06, 5_000),
    Row("prox_sgd[damped]", functools.partial(jaxreg.prox_sgd, momentum=0.9, damped=True), 0.6, 5_000),
    Row("prox_adam", jaxreg.prox_adam, 0.05),
    Row("prox_adamw[no decay]", functools.partial(jaxreg.prox_adamw, weight_decay=0.0), 0.05),
    Row("prox_nadam", jaxreg.prox_nadam, 0.05),
    Row("prox_amsgrad", jaxreg.prox_amsgrad, 0.2),
    Row("prox_adabelief", functools.partial(jaxreg.prox_adabelief, eps=0.03), 0.04),
    Row("prox_rmsprop", jaxreg.prox_rmsprop, 0.05, 4_000),
    Row("prox_rmsprop[momentum]", functools.partial(jaxreg.prox_rmsprop, momentum=0.9), 0.006),
    Row(
        "prox_rmsprop[centered]", functools.partial(jaxreg.prox_rmsprop, centered=True, eps=0.01), 0.05, 7_000
    ),
    Row("prox_adagrad", jaxreg.prox_adagrad, 2.0),
    Row("fista", jaxreg.fista, 0.2, 1_000),
]


def converge(row: Row, penalty: jaxreg.Penalty, decays: jax.Array) -> Weights:
    """Full-batch training by the optax contract, with a rate that is constant or falls by half."""
    cosine = optax.cosine_decay_schedule(row.rate, row.steps, alpha=0.5)
    optimizer = row.make(lambda count: jnp.where(decays, cosine(count), row.rate), penalty)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        w, state = carry
        updates, state = optimizer.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    w = zero_weights()
    return jax.lax.scan(step, (w, optimizer.init(w)), None, length=row.steps)[0][0]


@functools.cache
def both_rates(row: Row, name: str) -> tuple[Weights, Weights]:
    """What the row finds with a constant and with a decaying rate, in NumPy."""
    case = PENALISED[name]
    penalty = case.make(case.strengths)
    if name not in ("l1", "mcp"):  # whose problems are conditioned worst
        row = dataclasses.replace(row, steps=row.steps // 2)

    def run(decays: jax.Array) -> tuple[Weights, Weights]:
        w = converge(row, penalty, decays)
        return w, penalty.optimality(w, jax.grad(loss)(w))

    found, distances = jax.device_get(jax.jit(jax.vmap(run))(jnp.array([False, True])))
    for leaf, distance in distances.items():
        assert distance.max() < 1e-6, leaf
    return tuple({leaf: w[index] for leaf, w in found.items()} for index in (0, 1))


def assert_same_model(found: Weights, expected: Weights) -> None:
    for leaf, reference in expected.items():
        np.testing.assert_allclose(found[leaf], reference, atol=1e-5, err_msg=leaf)
        # scikit-learn's saga leaves zeros of some 1e-13.
        np.testing.assert_array_equal(found[leaf] == 0, np.abs(reference) < 1e-9, err_msg=leaf)
        assert 0 < np.count_nonzero(found[leaf]) < found[leaf].size


@pytest.mark.parametrize("name", [name for name, case in PENALISED.items() if case.references])
def test_the_model_is_that_of_scikit_learn_or_skglm(name: str) -> None:
    case = PENALISED[name]
    expected = {leaf: solve(case.strengths[leaf]) for leaf, solve in case.references.items()}
    assert_same_model(both_rates(OPTIMIZERS[0], name)[0], expected)


# Other forms of an optimizer share its step sizes up to a factor: an elementwise and a grouped penalty each.
FORMS = ("prox_sgd[nesterov]", "prox_sgd[damped]", "prox_rmsprop[momentum]", "prox_rmsprop[centered]")
PAIRS = [
    (row, name)
    for row in OPTIMIZERS
    for name in PENALISED
    if row.name not in FORMS or name in ("l1", "group_lasso")
]


@pytest.mark.parametrize(("row", "name"), PAIRS, ids=[f"{row}-{name}" for row, name in PAIRS])
def test_one_strength_is_one_model_for_all_optimizers(row: Row, name: str) -> None:
    expected = both_rates(OPTIMIZERS[0], name)[0]
    for found in both_rates(row, name):
        assert_same_model(found, {leaf: expected[leaf] for leaf in PENALISED[name].unique})


@pytest.mark.parametrize(
    ("make", "rate", "wrong_by"),
    [(optax.adam, 0.01, 0.3), (functools.partial(optax.sgd, momentum=0.9), 0.02, 0.05)],
    ids=["adam", "momentum"],
)
def test_a_plain_prox_behind_adam_or_momentum_solves_another_problem(
    make: Any, rate: float, wrong_by: float
) -> None:
    """The reason for loss units, measured: errors of 0.05 and more in the coefficients."""
    x, y = diabetes()
    optimizer = optax.chain(make(rate), jaxreg.proximal(jaxreg.l1(0.05), rate))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        w, state = carry
        updates, state = optimizer.update(x.T @ (x @ w - y) / len(y), state, w)
        return (optax.apply_updates(w, updates), state), None

    w = jnp.zeros(10)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=6_000)[0])
    w, _ = run((w, optimizer.init(w)))
    assert np.max(np.abs(w - lasso(0.05))) > wrong_by
