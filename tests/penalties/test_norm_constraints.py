"""max_norm, l2_ball, unit_norm and norm_range against NumPy, scipy and Keras' formulas."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxreg
from jaxreg import groups, masks

prox = jax.jit(lambda constraint, x, step: constraint.prox(x, step))
optimality = jax.jit(lambda constraint, w, slope: constraint.optimality(w, slope))
double = pytest.mark.usefixtures("x64")


def draw(seed: int, shape: tuple[int, ...] = (5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def weighted_ball(x: np.ndarray, step: np.ndarray, radius: float) -> np.ndarray:
    """The nearest point of a ball by bisection on the multiplier."""
    if np.linalg.norm(x) <= radius:
        return x
    excess = lambda log_mu: np.linalg.norm(x / (1 + np.exp(log_mu) * step)) - radius  # noqa: E731
    mu = np.exp(optimize.brentq(excess, -100, 100, xtol=1e-15, rtol=1e-15))
    return x / (1 + mu * step)


@double
@pytest.mark.parametrize("radius", [1e-9, 0.5, 2.0, 100.0])
@pytest.mark.parametrize("spread", [0, 3, 10])
def test_ball_with_a_step_per_element(radius: float, spread: int) -> None:
    x = draw(0)
    step = 10.0 ** np.random.default_rng(1).uniform(-spread, 1, size=x.shape)
    found = prox(jaxreg.l2_ball(radius), jnp.asarray(x), jnp.asarray(step))
    np.testing.assert_allclose(found, weighted_ball(x, step, radius), rtol=1e-9)
    columns = prox(jaxreg.max_norm(radius, groups.outputs()), jnp.asarray(x), jnp.asarray(step))
    expected = [weighted_ball(x[:, j], step[:, j], radius) for j in range(3)]
    np.testing.assert_allclose(columns, np.stack(expected, axis=1), rtol=1e-9)


@double
def test_ball_against_a_solver() -> None:
    x, step = draw(2, (4,)), np.array([0.1, 3.0, 0.5, 10.0])
    solved = optimize.minimize(
        lambda z: np.sum((z - x) ** 2 / step),
        np.zeros(4),
        constraints={"type": "ineq", "fun": lambda z: 0.5 - z @ z},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    found = prox(jaxreg.l2_ball(np.sqrt(0.5)), jnp.asarray(x), jnp.asarray(step))
    np.testing.assert_allclose(found, solved.x, atol=1e-6)


@double
def test_elements_with_step_zero_stay_and_the_others_make_room() -> None:
    x, step = np.array([0.6, 2.0, -3.0]), np.array([0.0, 1.0, 1.0])
    found = prox(jaxreg.l2_ball(1.0), jnp.asarray(x), jnp.asarray(step))
    np.testing.assert_allclose(found, [0.6, *(0.8 * x[1:] / np.linalg.norm(x[1:]))], rtol=1e-12)
    # Where those that stay are outside by themselves, the others do what they can.
    np.testing.assert_array_equal(prox(jaxreg.l2_ball(0.5), jnp.asarray(x), jnp.asarray(step)), [0.6, 0, 0])
    one_inside = prox(jaxreg.l2_ball(5.0), jnp.asarray(x), jnp.asarray(step))
    np.testing.assert_array_equal(one_inside, x)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision_over_the_whole_range_of_floats(dtype: Any) -> None:
    x = (draw(3) + (1j * draw(4) if dtype == np.complex64 else 0)).astype(dtype)
    for scale in (1e-30, 1e-18, 1.0, 1e18, 1e30):
        for radius in (1e-30, 1e-3, 1.0, 1e30):
            wide = x.astype(np.complex128) * scale
            norm = np.linalg.norm(wide)
            found = prox(jaxreg.l2_ball(radius), jnp.asarray((x * scale).astype(dtype)), 1.0)
            np.testing.assert_allclose(found, wide * min(1, radius / norm), rtol=16 * 1.2e-7)


def test_keras_formulas() -> None:
    """keras/src/constraints/constraints.py, on a dense kernel with axis=0."""
    w = draw(5).astype(np.float32) * np.array([0.1, 1.0, 5.0], np.float32)
    norms = np.sqrt(np.sum(w**2, axis=0, keepdims=True))
    outputs = groups.outputs()
    keras = {
        jaxreg.max_norm(2.0, outputs): w * (np.clip(norms, 0, 2.0) / (1e-7 + norms)),
        jaxreg.unit_norm(outputs): w / (1e-7 + norms),
        jaxreg.norm_range(0.5, 2.0, outputs): w * (np.clip(norms, 0.5, 2.0) / (1e-7 + norms)),
        jaxreg.non_negative(): w * (w >= 0),
    }
    for constraint, expected in keras.items():
        np.testing.assert_allclose(prox(constraint, jnp.asarray(w), 1.0), expected, rtol=1e-5, atol=1e-6)


def test_convolution_kernels_and_other_structures() -> None:
    conv = jnp.asarray(draw(6, (3, 3, 2, 4)), jnp.float32)
    norms = np.sqrt(np.sum(np.asarray(conv) ** 2, axis=(0, 1, 2)))
    found = prox(jaxreg.max_norm(1.5, groups.outputs()), conv, 1.0)
    np.testing.assert_allclose(found, conv * np.minimum(1, 1.5 / norms), rtol=1e-6)
    blocks = prox(jaxreg.unit_norm(groups.blocks((3, 2), ragged=True)), jnp.zeros((4, 3)), 1.0)
    for rows in (slice(0, 3), slice(3, 4)):
        for columns in (slice(0, 2), slice(2, 3)):
            tile = np.asarray(blocks[rows, columns])
            np.testing.assert_allclose(tile, 1 / np.sqrt(tile.size), rtol=1e-6)


@double
def test_zero_groups_and_a_single_element() -> None:
    np.testing.assert_array_equal(
        prox(jaxreg.unit_norm(None), jnp.array([-3.0, 0.0, -0.0, 1e-300]), 1.0), [-1, 1, 1, 1]
    )
    complex_ones = prox(jaxreg.unit_norm(None), jnp.array([3j, 0.0, -4 + 3j]), 1.0)
    np.testing.assert_allclose(complex_ones, [1j, 1, -0.8 + 0.6j])
    equal = prox(jaxreg.norm_range(2.0, 3.0, groups.layers()), jnp.zeros(16), 1.0)
    np.testing.assert_allclose(equal, 0.5)
    assert jaxreg.unit_norm(groups.layers())(equal / 2) == 0
    assert jaxreg.unit_norm(groups.layers())(jnp.zeros(16)) == np.inf
    assert prox(jaxreg.l2_ball(0.5), jnp.array([[-3.0]]), 1.0) == -0.5
    assert prox(jaxreg.l2_ball(1.0), jnp.zeros((0, 3)), 1.0).shape == (0, 3)


@dataclasses.dataclass(frozen=True)
class Coupled(groups.Groups):
    """Column j of all leaves together."""

    def resolve(self, flat: Any, selected: Any) -> Any:
        return (tuple((index, groups.outputs().view(index, flat)) for index in selected),)


@double
def test_groups_over_several_leaves() -> None:
    params = {"a": jnp.asarray(draw(9)), "b": jnp.asarray(draw(10, (2, 3)))}
    joined = np.concatenate([params["a"], params["b"]])
    step = 10.0 ** np.random.default_rng(11).uniform(-2, 1, size=joined.shape)
    steps = {"a": jnp.asarray(step[:5]), "b": jnp.asarray(step[5:])}
    weighted = np.stack([weighted_ball(joined[:, j], step[:, j], 1.1) for j in range(3)], axis=1)
    norms = np.linalg.norm(joined, axis=0)
    for constraint, sizes, expected in (
        (jaxreg.max_norm(1.1, Coupled()), 1.0, joined * np.minimum(1, 1.1 / norms)),
        (jaxreg.max_norm(1.1, Coupled()), steps, weighted),
        (jaxreg.unit_norm(Coupled()), 1.0, joined / norms),
        (jaxreg.unit_norm(Coupled()), None, np.full((7, 3), 1 / np.sqrt(7))),
    ):
        given = params if sizes is not None else jax.tree.map(jnp.zeros_like, params)
        found = prox(constraint, given, 1.0 if sizes is None else sizes)
        np.testing.assert_allclose(np.concatenate([found["a"], found["b"]]), expected, rtol=1e-9)
        slope = jax.tree.map(jnp.negative, found)  # straight outwards
        chex.assert_trees_all_close(
            optimality(constraint, found, slope), jax.tree.map(jnp.zeros_like, found), atol=1e-12
        )


@double
def test_binary_weights_take_steps_per_element() -> None:
    x, step = jnp.array([0.3, -2.0, 0.0]), jnp.array([0.1, 5.0, 0.0])
    np.testing.assert_array_equal(prox(jaxreg.unit_norm(None), x, step), [1.0, -1.0, 0.0])


@double
def test_optimality_in_numbers() -> None:
    ball = jaxreg.l2_ball(5.0)
    w = jnp.array([3.0, 4.0])
    np.testing.assert_allclose(optimality(ball, w, -2 * w), 0, atol=1e-14)  # pulled outwards
    np.testing.assert_allclose(optimality(ball, w, w), 5.0)  # pulled inwards
    np.testing.assert_allclose(optimality(ball, w, jnp.array([4.0, -3.0])), 5.0)  # along the edge
    np.testing.assert_allclose(optimality(ball, w / 2, -w), 5.0)
    np.testing.assert_array_equal(optimality(ball, 2 * w, w), np.inf)
    np.testing.assert_array_equal(optimality(jaxreg.l2_ball(0.0), 0 * w, w), 0.0)
    sphere = jaxreg.unit_norm(groups.layers())
    np.testing.assert_allclose(optimality(sphere, w / 5, w), 0, atol=1e-14)
    np.testing.assert_allclose(optimality(sphere, w / 5, jnp.array([4.0, -3.0])), 5.0)


@double
def test_second_derivatives_of_the_weighted_ball() -> None:
    x, step = jnp.asarray(draw(7)), jnp.asarray(10.0 ** np.random.default_rng(8).uniform(-2, 1, size=(5, 3)))

    def total(radius: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(prox(jaxreg.l2_ball(radius), x, step)))

    slope, small = jax.jit(jax.grad(total)), 1e-6
    difference = (slope(0.8 + small) - slope(0.8 - small)) / (2 * small)
    np.testing.assert_allclose(jax.jit(jax.grad(slope))(0.8), difference, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: jaxreg.max_norm(-1.0, None),
            "The 'radius' parameter of max_norm must be a non-negative number. Got -1.0",
        ),
        (
            lambda: jaxreg.l2_ball({"w": np.nan}),
            r"The 'radius\['w'\]' parameter of l2_ball must be a non-negative",
        ),
        (
            lambda: jaxreg.norm_range(2.0, 1.0, None),
            "The 'low' parameter of norm_range must not be above 'high'. Got 2.0 and",
        ),
        (
            lambda: jaxreg.norm_range({"w": 2}, 1, None),
            "The 'low' parameter of norm_range must not be above 'high'. Got 2.0",
        ),
    ],
)
def test_numbers_out_of_range(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_other_bad_arguments() -> None:
    for make in (lambda g: jaxreg.max_norm(1.0, g), jaxreg.unit_norm):
        with pytest.raises(
            TypeError, match=r"The 'groups' parameter of \w+ must be a structure from jaxreg.groups"
        ):
            make("outputs")
    with pytest.raises(ValueError, match="The leaf 'bias' has shape"):
        jaxreg.max_norm(1.0, groups.outputs())({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
    jaxreg.max_norm(1.0, groups.outputs(), mask=masks.weights)(
        {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    )
    for constraint in (jaxreg.unit_norm(groups.outputs()), jaxreg.norm_range(0.5, 1.0, groups.outputs())):
        with pytest.raises(
            ValueError, match=r"one step size for each leaf.*jaxreg.proximal\(constraint, 1.0\)"
        ):
            constraint.prox(jnp.ones((2, 2)), jnp.ones((2, 2)))
