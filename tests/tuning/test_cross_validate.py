"""Cross-validation against scikit-learn's LassoCV, fold by fold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convex_problems import diabetes
from sklearn import linear_model, model_selection

import jaxreg

STRENGTHS = np.geomspace(0.3, 3e-3, 12)


def train(strength, weights):
    x, y = diabetes()
    optimizer = jaxreg.fista(0.15, jaxreg.l1(strength))

    def body(carry, _):
        w, state = carry
        slope = x.T @ (weights * (x @ w - y)) / jnp.sum(weights)
        return jaxreg.step(optimizer, slope, state, w), None

    start = jnp.zeros(x.shape[1])
    return jax.lax.scan(body, (start, optimizer.init(start)), length=500)[0][0]


def squares(w):
    x, y = diabetes()
    return (x @ w - y) ** 2


@pytest.mark.usefixtures("x64")
def test_errors_are_those_of_scikit_learn_on_the_same_folds():
    x, y = diabetes()
    shuffled = np.random.default_rng(3).integers(0, 4, size=len(y))
    for folds, n_samples, cv in (
        (5, len(y), model_selection.KFold(5)),
        (shuffled, None, model_selection.PredefinedSplit(shuffled)),
    ):
        found = jaxreg.cross_validate(train, squares, STRENGTHS, folds, n_samples=n_samples)
        model = linear_model.LassoCV(
            alphas=STRENGTHS, cv=cv, fit_intercept=False, tol=1e-9, max_iter=100_000
        ).fit(x, y)
        np.testing.assert_allclose(found.errors, model.mse_path_, rtol=1e-5)
        assert found.best == model.alpha_
        assert found.one_standard_error > found.best
        assert f"best: {found.best:.6g}" in str(found)


def test_the_choice_of_one_standard_error():
    errors = np.array([[3.0, 5.0], [1.0, 3.0], [0.9, 2.9], [1.0, 3.2]])
    found = jaxreg.CrossValidation(np.array([1.0, 0.5, 0.2, 0.1]), errors)
    np.testing.assert_allclose(found.mean, [4.0, 2.0, 1.9, 2.1])
    np.testing.assert_allclose(found.standard_error[:3], 1.0)
    assert found.best == 0.2
    assert found.one_standard_error == 0.5


def first_of(strength, weights):
    return jnp.sum(weights * jnp.arange(weights.size)) + 0 * strength


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_folds_are_disjoint_of_equal_size_and_shuffled_on_request(seed):
    # The training run tells which samples it was given: the sum of their numbers.
    found = jaxreg.cross_validate(
        first_of, lambda total: jnp.full(11, total), [1.0], 3, n_samples=11, seed=seed
    )
    left_out = 55 - found.errors[0]
    assert left_out.sum() == 55
    assert (list(left_out) == [0 + 1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9 + 10]) == (seed is None)


def test_it_is_compiled_once():
    traces = []

    def counted(strength, weights):
        traces.append(strength)
        return first_of(strength, weights)

    def zeros(total):
        return jnp.zeros(6)

    for strengths in ([1.0, 2.0], [3.0, 4.0]):
        jaxreg.cross_validate(counted, zeros, strengths, 2, n_samples=6)
    assert len(traces) == 1


def test_runs_that_diverged_are_not_chosen():
    bad = np.array([[np.nan, 1.0], [3.0, 5.0], [4.0, 4.5], [np.inf, 1.0], [9.0, 9.0]])
    found = jaxreg.CrossValidation(np.array([5.0, 1.0, 2.0, 4.0, 3.0]), bad)
    assert found.best == 1.0
    assert found.one_standard_error == 2.0
    with pytest.raises(ValueError, match="No strength has a finite error on all folds"):
        _ = jaxreg.CrossValidation(np.array([1.0]), np.array([[np.nan, 1.0]])).one_standard_error


def test_drawing_marks_both_choices():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    found = jaxreg.CrossValidation(np.array([1.0, 0.5]), np.array([[3.0, 5.0], [1.0, 3.0]]))
    axes = found.draw()
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["best", "one standard error"]
    assert found.draw(axes) is axes
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"folds": 1}, ValueError, "must be from 2 to 'n_samples'. Got folds=1 and n_samples=6"),
        ({"folds": 7}, ValueError, "Got folds=7"),
        ({"folds": np.arange(6)}, ValueError, "'n_samples' parameter .* must be None where 'folds' says"),
        (
            {"folds": np.arange(6), "n_samples": None, "seed": 1},
            ValueError,
            "'seed' parameter .* must be None",
        ),
        ({"folds": np.ones(6, int), "n_samples": None}, ValueError, "must have 2 folds at least. Got 1"),
        ({"folds": np.ones(6), "n_samples": None}, ValueError, "a number or a vector of whole numbers"),
        (
            {"n_samples": None},
            TypeError,
            "'n_samples' parameter of cross_validate must be a non-negative whole",
        ),
        ({"strengths": [-1.0]}, ValueError, "'strengths' parameter of cross_validate must hold non-negative"),
        ({"train_fn": 1}, TypeError, "'train_fn' parameter of cross_validate must be a function"),
        ({"errors_fn": None}, TypeError, "'errors_fn' parameter of cross_validate must be a function"),
        ({"errors_fn": jnp.sum}, ValueError, r"one error per sample, \(6,\). Got shape \(\)"),
    ],
)
def test_bad_arguments_are_named(change, error, words):
    given = {"train_fn": first_of, "errors_fn": lambda total: jnp.zeros(6), "strengths": [1.0], "folds": 2}
    given |= {"n_samples": 6} | change
    with pytest.raises(error, match=words):
        jaxreg.cross_validate(**given)
