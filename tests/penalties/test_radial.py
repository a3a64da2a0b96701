"""Scalar functions of a radius: against a grid, skglm's formulas and each other's structures."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skglm.utils import prox_funcs

import jaxreg
from jaxreg import groups

Make = Callable[..., jaxreg.Penalty]
Phi = Callable[[np.ndarray, float], np.ndarray]

GAMMA, A, EPSILON, CAP, DELTA = 2.5, 3.7, 0.3, 0.8, 0.6
MAKE: dict[str, Make] = {
    "l0": jaxreg.l0,
    "l_half": jaxreg.l_half,
    "l_two_thirds": jaxreg.l_two_thirds,
    "mcp": lambda s, **kw: jaxreg.mcp(s, GAMMA, **kw),
    "scad": lambda s, **kw: jaxreg.scad(s, A, **kw),
    "log_sum": lambda s, **kw: jaxreg.log_sum(s, EPSILON, **kw),
    "capped_l1": lambda s, **kw: jaxreg.capped_l1(s, CAP, **kw),
    "huber": lambda s, **kw: jaxreg.huber(s, DELTA, **kw),
}


def _mcp(r: np.ndarray, s: float) -> np.ndarray:
    return np.where(r < GAMMA * s, s * r - r**2 / (2 * GAMMA), GAMMA * s**2 / 2)


def _scad(r: np.ndarray, s: float) -> np.ndarray:
    middle = (2 * A * s * r - r**2 - s**2) / (2 * (A - 1))
    return np.where(r <= s, s * r, np.where(r <= A * s, middle, s**2 * (A + 1) / 2))


PHI: dict[str, Phi] = {
    "l0": lambda r, s: s * (r > 0),
    "l_half": lambda r, s: s * np.sqrt(r),
    "l_two_thirds": lambda r, s: s * np.cbrt(r) ** 2,
    "mcp": _mcp,
    "scad": _scad,
    "log_sum": lambda r, s: s * np.log1p(r / EPSILON),
    "capped_l1": lambda r, s: s * np.minimum(r, CAP),
    "huber": lambda r, s: s * np.where(r <= DELTA, r**2 / (2 * DELTA), r - DELTA / 2),
}
every = pytest.mark.parametrize("name", MAKE)


@every
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("strength", [0.05, 0.7, 4.0])
@pytest.mark.parametrize("step", [1e-3, 0.3, 0.99, 2.49, 2.51, 2.7, 3.0, 5.0, 1e3])
def test_no_point_of_a_fine_grid_is_lower(name: str, strength: float, step: float) -> None:
    """On both sides of every length of step at which a formula changes."""
    x = np.linspace(0, 12, 241)
    found = np.asarray(MAKE[name](strength).prox(jnp.asarray(x), step))
    z = np.concatenate([np.linspace(0, 12, 4001), found])

    def objective(z: np.ndarray, x: np.ndarray) -> np.ndarray:
        return PHI[name](z, strength) + (z - x) ** 2 / (2 * step)

    best = np.min(objective(z[None, :], x[:, None]), axis=1)
    np.testing.assert_array_less(objective(found, x), best + 1e-12 * (1 + best))


SKGLM: dict[str, Callable[[float, float, float], float]] = {
    "l_half": lambda x, step, s: prox_funcs.prox_05.py_func(x, step * s),
    "l_two_thirds": lambda x, step, s: prox_funcs.prox_2_3.py_func(x, step * s),
    "mcp": lambda x, step, s: prox_funcs.prox_MCP.py_func(x, step, s, GAMMA),
    "scad": lambda x, step, s: prox_funcs.prox_SCAD.py_func(x, step, s, A),
    "log_sum": lambda x, step, s: prox_funcs.prox_log_sum.py_func(x, step * s, EPSILON),
}


@pytest.mark.parametrize("name", SKGLM)
@pytest.mark.usefixtures("x64")
def test_agrees_with_skglm_for_the_steps_that_it_takes(name: str) -> None:
    x = np.linspace(-6.03, 6.01, 60)
    # Where the prox of log_sum jumps, skglm's is 0 for too long: its objective is higher there.
    continuous = ((0.3, 0.25), (0.05, 1.5), (0.01, 0.9))
    for strength, step in continuous if name == "log_sum" else ((0.3, 0.5), (1.0, 1.5), (1.3, 0.9)):
        expected = [SKGLM[name](float(value), step, strength) for value in x]
        np.testing.assert_allclose(
            MAKE[name](strength).prox(jnp.asarray(x), step), expected, rtol=1e-9, atol=1e-9
        )


@every
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size_weights", [True, False])
def test_over_groups_it_is_the_function_of_the_norms(name: str, size_weights: bool) -> None:
    x = np.random.default_rng(0).normal(size=(10, 4)) * np.array([0.05, 0.3, 1.0, 4.0])
    x[:5, 1] = 0.0
    penalty = MAKE[name](0.4, groups=groups.chunks(5, axis=0), size_weights=size_weights)
    norms = np.linalg.norm(x.reshape(2, 5, 4), axis=1)
    of_norms = MAKE[name](0.4 * (np.sqrt(5) if size_weights else 1.0))
    np.testing.assert_allclose(penalty(jnp.asarray(x)), of_norms(jnp.asarray(norms)), rtol=1e-13)
    shrunk = np.asarray(of_norms.prox(jnp.asarray(norms), 0.8))
    ratio = np.repeat(np.divide(shrunk, norms, out=np.ones_like(norms), where=norms > 0), 5, axis=0)
    found = np.asarray(penalty.prox(jnp.asarray(x), 0.8))
    np.testing.assert_allclose(found, x * ratio, rtol=1e-12)
    np.testing.assert_array_equal(found == 0, x * ratio == 0)
    slope = jnp.asarray(np.random.default_rng(1).normal(size=x.shape))
    distance = penalty.optimality(jnp.asarray(found), (found - jnp.asarray(x)) / 0.8)
    np.testing.assert_allclose(distance, 0, atol=1e-12)
    assert np.max(penalty.optimality(jnp.asarray(x), slope)) > 0.1


@every
@pytest.mark.usefixtures("x64")
def test_single_precision_is_double_precision_rounded(name: str) -> None:
    x = np.random.default_rng(2).normal(size=400).astype(np.float32) * 3
    found = np.asarray(MAKE[name](0.7).prox(jnp.asarray(x), 0.9))
    expected = np.asarray(MAKE[name](0.7).prox(jnp.asarray(x, jnp.float64), 0.9))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, rtol=16 * np.finfo(np.float32).eps, atol=1e-6)


@every
def test_extreme_weights_and_strengths(name: str) -> None:
    x = jnp.array([0.0, -0.0, 1e-45, -1e-30, 1e-20, 1.0, 1e20, -1e30, 3e38], jnp.float32)
    for strength in (0.0, 1e-30, 1.0, 1e30):
        for step in (0.0, 1e-30, 1.0, 1e30):
            out = MAKE[name](strength).prox(x, step)
            chex.assert_tree_all_finite(out)
            assert np.all(np.abs(out) <= np.abs(x))
            if strength == 0 or step == 0:
                np.testing.assert_array_equal(out, x)


@every
def test_step_sizes_per_element_over_groups_are_refused(name: str) -> None:
    w, steps = jnp.ones((2, 2)), jnp.ones((2, 2))
    with pytest.raises(ValueError, match=f"The prox of {name} over groups needs one step size for each leaf"):
        MAKE[name](0.1, groups=groups.outputs()).prox(w, steps)
    chex.assert_tree_all_finite(MAKE[name](0.1).prox(w, steps))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jaxreg.mcp(1.0, 0.0), "The 'gamma' parameter of mcp must be a positive number. Got 0.0."),
        (lambda: jaxreg.scad(1.0, 2.0), "The 'gamma' parameter of scad must be a number above 2. Got 2.0."),
        (lambda: jaxreg.log_sum(1.0, -1.0), "The 'epsilon' parameter of log_sum must be a positive number"),
        (lambda: jaxreg.capped_l1(1.0, 0.0), "The 'cap' parameter of capped_l1 must be a positive number"),
        (lambda: jaxreg.huber(1.0, np.nan), "The 'delta' parameter of huber must be a positive number"),
    ],
)
def test_shapes_out_of_range_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["mcp", "scad"])
def test_shape_parameters_are_traced_and_differentiable(name: str) -> None:
    chex.clear_trace_counter()
    x = jnp.linspace(-4, 4, 41)
    make = {"mcp": jaxreg.mcp, "scad": jaxreg.scad}[name]

    @jax.jit
    @chex.assert_max_traces(n=1)
    def total(gamma: jax.Array) -> jax.Array:
        return jnp.sum(make(0.7, gamma).prox(x, 0.5) ** 2)

    difference = (total(3.1 + 1e-6) - total(3.1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(total)(3.1), difference, rtol=1e-6)
    assert abs(difference) > 0.01


@every
def test_derivatives_at_extreme_weights_and_strengths(name: str) -> None:
    """Finite wherever the exact ones are floats, and in line with differences at strength 0."""
    derivatives = jax.jit(
        jax.vmap(
            jax.grad(lambda s, x, step: MAKE[name](s).prox(x[None], step)[0], argnums=(0, 1)),
        )
    )
    weights, strengths = [1e-30, 1e-19, 1e-5, 1.0, 1e30], [0.0, 1e-30, 1e-10, 1.0, 1e30]
    grid = np.array(np.meshgrid(strengths, weights, [0.0, 1e-30, 1.0, 1e5]), np.float32).reshape(3, -1)
    chex.assert_tree_all_finite(derivatives(*jnp.asarray(grid)))
    if name != "l0":  # whose threshold grows like a root
        slope, _ = derivatives(jnp.zeros(1), jnp.array([0.9]), jnp.array([0.5]))
        moved = MAKE[name](1e-3).prox(jnp.array([0.9]), 0.5)[0] - 0.9
        # At strength 0 every MCP, SCAD and cap lies below this weight.
        expected = 0.0 if name in ("mcp", "scad", "capped_l1") else moved / 1e-3
        np.testing.assert_allclose(slope[0], expected, rtol=2e-2)


def test_optimality_at_tiny_weights() -> None:
    still = jnp.zeros(1)
    np.testing.assert_allclose(jaxreg.l_half(1.0).optimality(jnp.array([1e-30]), still), 5e14, rtol=1e-5)
    np.testing.assert_allclose(jaxreg.mcp(10.0).optimality(jnp.array([2e-38]), still), 10.0)
