"""box and non_negative against NumPy, and their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg

INF = float("inf")


def test_clips_like_numpy_and_keeps_signs_of_zeros() -> None:
    x = np.array([-3.0, -0.0, 0.0, 1e-45, 1e30, np.inf, -np.inf, 0.5], np.float32)
    for low, high in ((-1.0, 0.5), (0.0, INF), (-INF, 0.25), (-INF, INF), (2.0, 2.0)):
        expected = np.clip(x, low, high)
        found = np.asarray(jaxreg.box(low, high).prox(jnp.asarray(x), 0.1))
        np.testing.assert_array_equal(found, expected)
        inside = (x >= low) & (x <= high)
        assert found[inside].tobytes() == x[inside].tobytes()
    np.testing.assert_array_equal(jaxreg.non_negative().prox(jnp.asarray(x), 0.1), np.where(x < 0, 0, x))


def test_value_has_no_slack_beyond_rounding() -> None:
    assert jaxreg.non_negative()(jnp.array([1e30, -1e-30])) == INF
    assert jaxreg.non_negative()(jnp.array([1e30, -0.0])) == 0
    assert jaxreg.box(0.0, 1.0)(jnp.array([1.0 + 1e-7])) == 0
    assert jaxreg.box(0.0, 1.0)(jnp.array([1.0 + 1e-5])) == INF


def test_derivatives_at_the_bounds_are_those_inside() -> None:
    x = jnp.array([-1.0, -2.0, 0.0, 1.0, 3.0])
    slope = jax.grad(lambda x: jaxreg.box(-1.0, 1.0).prox(x, 0.1).sum())(x)
    np.testing.assert_array_equal(slope, [1, 0, 1, 1, 0])
    slope = jax.grad(lambda x: jaxreg.non_negative().prox(x, 0.1).sum())(x)
    np.testing.assert_array_equal(slope, [0, 0, 1, 1, 1])
    low, high = jax.grad(lambda box: box.prox(x, 0.1).sum())(jaxreg.box(-1.5, 2.0)), None
    np.testing.assert_array_equal((low.low, low.high), (1.0, 1.0))
    assert high is None


def test_optimality_in_numbers() -> None:
    w, slope = jnp.array([0.0, 0.0, 1.0, 1.0, 0.5]), jnp.array([2.0, -2.0, 2.0, -2.0, 3.0])
    np.testing.assert_allclose(jaxreg.box(0.0, 1.0).optimality(w, slope), [0, 2, 2, 0, 3])
    np.testing.assert_allclose(jaxreg.non_negative().optimality(w, slope), [0, 2, 2, 2, 3])
    np.testing.assert_allclose((jaxreg.l1(1.0) + jaxreg.non_negative()).optimality(w, slope), [0, 1, 3, 1, 4])
    np.testing.assert_array_equal(jaxreg.box(1.0, 1.0).optimality(jnp.ones(2), slope[:2]), 0)
    np.testing.assert_array_equal(jaxreg.box(2.0, INF).optimality(w, slope), INF)


def test_bounds_by_leaf() -> None:
    params = {"a": jnp.array([-3.0, 3.0]), "b": jnp.array([-3.0, 3.0])}
    found = jaxreg.box({"a": -1, "b": -INF}, 2.0).prox(params, 0.1)
    np.testing.assert_array_equal(found["a"], [-1, 2])
    np.testing.assert_array_equal(found["b"], [-3, 2])


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"The 'low' parameter of box must be a number. Got nan"):
        jaxreg.box(float("nan"), 1.0)
    with pytest.raises(ValueError, match=r"The 'low' parameter of box must be a number. Got inf"):
        jaxreg.box(INF, INF)
    with pytest.raises(TypeError, match=r"The 'high' parameter of box must be a number. Got 'x'"):
        jaxreg.box(0.0, "x")
    with pytest.raises(TypeError, match=r"The 'high' parameter of box must be a number. Got None"):
        jaxreg.box(0.0, None)
    with pytest.raises(
        ValueError, match=r"The 'low' parameter of box must not be above 'high'. Got 1.0 and -1.0"
    ):
        jaxreg.box(1.0, -1.0)
    with pytest.raises(TypeError, match=r"mask"):
        jaxreg.non_negative(mask=3)
