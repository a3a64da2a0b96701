"""Sparsity against accuracy: counts, scores, and the choice between them."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import groups, masks

KERNELS = np.array([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]], np.float32)
PARAMS = {"kernel": jnp.asarray(KERNELS), "bias": jnp.ones((3, 2))}


def largest(params):
    return jnp.max(params["kernel"])


def test_each_run_has_its_share_of_zeros_and_its_score():
    curve = jaxreg.sparsity_curve([0.1, 1.0, 10.0], PARAMS, largest, mask=masks.weights)
    np.testing.assert_allclose(curve.sparsity, [0.25, 0.5, 1.0])
    np.testing.assert_allclose(curve.scores, [3.0, 2.0, 0.0])
    np.testing.assert_allclose(curve.strengths, [0.1, 1.0, 10.0], rtol=1e-6)
    columns = jaxreg.sparsity_curve(
        [0.1, 1.0, 10.0], PARAMS, largest, groups=groups.outputs(), mask=masks.weights
    )
    np.testing.assert_allclose(columns.sparsity, [0.0, 0.5, 1.0])


def test_a_mask_may_be_a_tree():
    tree = {"kernel": True, "bias": False}
    curve = jaxreg.sparsity_curve([0.1, 1.0, 10.0], PARAMS, largest, mask=tree)
    np.testing.assert_allclose(curve.sparsity, [0.25, 0.5, 1.0])


def test_a_score_that_is_no_function_is_named():
    with pytest.raises(
        TypeError, match=r"'score_fn' parameter of sparsity_curve must be a function.* Got 0\.5"
    ):
        jaxreg.sparsity_curve([0.1, 1.0, 10.0], PARAMS, 0.5)


def test_the_sparsest_that_is_good_enough():
    curve = jaxreg.SparsityCurve(
        np.arange(4.0), np.array([0.0, 0.9, 0.5, 0.7]), np.array([1.0, 0.2, 0.9, 0.85])
    )
    assert [curve.sparsest(score) for score in (1.0, 0.9, 0.85, 0.1)] == [0, 2, 3, 1]
    with pytest.raises(ValueError, match=r"No run scores at least 2\. The best is 1"):
        curve.sparsest(2)


def test_drawing_is_in_the_order_of_sparsity():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    curve = jaxreg.SparsityCurve(np.arange(3.0), np.array([0.5, 0.0, 0.9]), np.array([0.8, 1.0, 0.3]))
    axes = curve.draw(color="red")
    [line] = axes.get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[0, 1.0], [50, 0.8], [90, 0.3]])
    assert line.get_color() == "red"
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(
    ("strengths", "score", "words"),
    [
        ([1.0, 2.0], largest, r"a leading axis as long as 'strengths', 2. Got a leaf of shape \(3, 2"),
        ([1.0, 2.0, 3.0], lambda params: params["bias"], r"must give a scalar. Got shape \(2,\)"),
        ([1.0, 2.0, np.inf], largest, "must hold non-negative numbers. Got inf"),
    ],
)
def test_bad_arguments_are_named(strengths, score, words):
    with pytest.raises(ValueError, match=words):
        jaxreg.sparsity_curve(strengths, PARAMS, score)
