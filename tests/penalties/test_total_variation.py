"""Total variation and the fused lasso against a bounded least squares dual, piece by piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxreg

PROX = jax.jit(lambda x, s: jaxreg.total_variation(s).prox(x, 1.0))
FUSED = jax.jit(lambda x, s: jaxreg.fused_lasso(s, 0.3).prox(x, 1.0))
N = 12


def reference(x: np.ndarray, threshold: float) -> np.ndarray:
    """The dual: x - D^T u with the u in [-threshold, threshold] of least residual, by active sets."""
    if threshold == 0:
        return x
    d = np.diff(np.eye(len(x)), axis=0)
    found = optimize.lsq_linear(d.T, x, (-threshold, threshold), method="bvls", tol=1e-15, max_iter=1000)
    return x - d.T @ found.x


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=N)


LINES = {
    "noise": draw(0),
    "walk": np.cumsum(draw(1)),
    "steps": np.repeat([1.0, 4.0, -2.0], 4) + 0.1 * draw(2),
    "ties": np.round(draw(3)),
    "rising": np.arange(N) / 3,
    "falling": -np.exp(np.arange(N) / 2),
    "alternating": np.where(np.arange(N) % 2, 1.0, -1.0),
    "spike": np.eye(N)[5],
    "equal": np.full(N, 1 / 3),
    "zero": np.zeros(N),
    "offset": 1e6 + draw(4),
}
STRENGTHS = (0.0, 1e-3, 0.1, 0.5, 1.0, 3.0, 30.0, 1e9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LINES)
def test_prox_and_optimality(name: str) -> None:
    x = LINES[name]
    size = np.abs(x).max()
    optimality = jax.jit(lambda z, g, s: jaxreg.total_variation(s).optimality(z, g))
    for strength in STRENGTHS:
        point = np.asarray(PROX(x, strength))
        np.testing.assert_allclose(point, reference(x, strength), atol=1e-12 * (1 + size))
        np.testing.assert_allclose(optimality(point, point - x, strength), 0, atol=1e-12 * (1 + size))
        absolute, varied = 0.3 * strength, 0.7 * strength
        soft = reference(x, varied)
        soft = np.sign(soft) * np.maximum(np.abs(soft) - absolute, 0)
        np.testing.assert_allclose(FUSED(x, strength), soft, atol=1e-12 * (1 + size))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("name", LINES)
def test_float32_over_the_whole_range(name: str, scale: float) -> None:
    x = (LINES[name] * scale).astype(np.float32)
    for strength in (0.1, 1.0, 1e6):
        point = np.asarray(PROX(x, np.float32(strength * scale)), np.float64)
        expected = reference(x.astype(np.float64) / scale, strength) * scale
        np.testing.assert_allclose(point, expected, atol=16 * 1.2e-7 * np.abs(x).max())


def test_pieces_are_equal_to_the_last_bit() -> None:
    x = np.repeat([1.0, 4.0, -2.0], 4) + 0.1 * draw(2)
    point = np.asarray(PROX(x.astype(np.float32), 0.5))
    assert len(np.unique(point)) == 3
    assert len(np.unique(np.asarray(PROX(x.astype(np.float32), 1e5)))) == 1


@pytest.mark.usefixtures("x64")
def test_derivatives_are_means_over_pieces() -> None:
    x = np.repeat([1.0, 4.0, -2.0], 4) + 0.1 * draw(2)
    jacobian = jax.jacobian(PROX)(x, 0.5)
    np.testing.assert_allclose(jacobian, np.kron(np.eye(3), np.full((4, 4), 0.25)), atol=1e-15)
    slope = jax.jacobian(PROX, 1)(x, 0.5)
    np.testing.assert_allclose(slope, np.repeat([1 / 4, -2 / 4, 1 / 4], 4), atol=1e-15)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_short_lines_along_each_axis(n: int) -> None:
    x = np.random.default_rng(n).normal(size=(2, n, 3))
    point = np.asarray(jaxreg.total_variation(0.4, axis=1).prox({"w": x}, 1.0)["w"])
    expected = np.apply_along_axis(lambda row: reference(row, 0.4) if n > 1 else row, 1, x)
    np.testing.assert_allclose(point, expected, atol=1e-14)
    other = jaxreg.total_variation(0.4, axis=-2).prox({"w": x}, 1.0)["w"]
    np.testing.assert_array_equal(other, point)


def test_a_long_line_needs_few_rounds() -> None:
    """A random walk of 20,000 steps; the solution is checked by its own optimality."""
    x = np.cumsum(np.random.default_rng(5).normal(size=20_000)).astype(np.float32)
    penalty = jaxreg.total_variation(20.0)
    point = jax.jit(penalty.prox)(x, 1.0)
    assert len(np.unique(np.asarray(point))) < 5000
    assert np.max(jax.jit(penalty.optimality)(point, point - x)) < 1e-3


@pytest.mark.usefixtures("x64")
def test_sum_with_l1_is_the_fused_lasso() -> None:
    """Exact in any order, also in optimality, and with an l2 on top."""
    x, slope = {"w": draw(6)}, {"w": draw(7)}
    whole = jaxreg.fused_lasso(0.5, 0.3)
    l1, variation, l2 = jaxreg.l1(0.15), jaxreg.total_variation(0.35), jaxreg.l2(0.2)
    for parts in (l1 + variation, variation + l1):
        np.testing.assert_allclose(parts(x), whole(x), rtol=1e-14)
        np.testing.assert_allclose(parts.prox(x, 0.8)["w"], whole.prox(x, 0.8)["w"], atol=1e-15)
        point = parts.prox(x, 0.8)
        for at, push in ((x, slope), (point, slope), (point, {"w": (point["w"] - x["w"]) / 0.8})):
            np.testing.assert_allclose(
                parts.optimality(at, push)["w"], whole.optimality(at, push)["w"], atol=1e-14
            )
        np.testing.assert_allclose(
            parts.optimality(point, {"w": (point["w"] - x["w"]) / 0.8})["w"], 0, atol=1e-14
        )
    total = l2 + variation + jaxreg.elastic_net(0.2, 0.5)
    point = total.prox(x, 0.8)
    np.testing.assert_allclose(
        total.optimality(point, {"w": (point["w"] - x["w"]) / 0.8})["w"], 0, atol=1e-14
    )


@pytest.mark.parametrize("name", ["total_variation", "fused_lasso"])
def test_what_is_refused(name: str) -> None:
    def make(axis: object, strength: float = 1.0) -> jaxreg.Penalty:
        return getattr(jaxreg, name)(strength, *([0.5] if name == "fused_lasso" else []), axis=axis)

    with pytest.raises(ValueError, match=f"The 'strength' parameter of {name} must be a non-negative number"):
        make(0, -1.0)
    with pytest.raises(TypeError, match=f"The 'axis' parameter of {name} must be an integer. Got 'rows'"):
        make("rows")
    with pytest.raises(
        ValueError, match=rf"{name} along axis 1 needs that axis. The leaf 'b' has shape \(3,\)"
    ):
        make(1)({"b": jnp.ones(3)})
    with pytest.raises(ValueError, match=f"{name} is of real numbers. The leaf 'b' is complex"):
        make(0)({"b": jnp.ones(3, complex)})
    with pytest.raises(ValueError, match=f"The prox of {name} needs one step size for each leaf"):
        make(0).prox({"b": jnp.ones(3)}, {"b": jnp.ones(3)})
    assert make(0).prox({"b": jnp.ones((0, 3))}, 1.0)["b"].shape == (0, 3)
