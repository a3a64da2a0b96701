"""Total variation along several axes, against a bounded least squares dual, one axis, and differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxreg
from jaxreg.penalties import grids

SHAPE = (5, 6)
BOTH = jax.jit(lambda x, s: jaxreg.total_variation(s, (0, 1)).prox(x, 1.0))
OPTIMALITY = jax.jit(lambda x, g, s: jaxreg.total_variation(s, (0, 1)).optimality(x, g))
x64 = pytest.mark.usefixtures("x64")


def draw(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def differences(shape: tuple[int, ...], axes: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """The matrix that takes a raveled image to all its differences of neighbours."""
    basis = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.concatenate(
        [np.diff(basis, axis=1 + a % len(shape)).reshape(len(basis), -1) for a in axes], axis=1
    ).T


def nearest(target: np.ndarray, pulls: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """What is left of the target after the best ``pulls.T @ u`` with u within +-bound, by active sets."""
    free = bound > 0
    if not free.any() or not target.any():
        return target
    d, size = pulls[free], np.abs(target).max() or 1.0
    limits = np.minimum(bound[free], 2 * np.abs(target).sum()) / size  # more is never needed
    found = optimize.lsq_linear(
        d.T, target / size, (-limits, limits), method="bvls", tol=1e-15, max_iter=9999
    )
    return target - size * (d.T @ found.x)


def reference(x: np.ndarray, threshold: float, axes: tuple[int, ...] = (0, 1)) -> np.ndarray:
    d = differences(x.shape, axes)
    return nearest(x.ravel(), d, np.full(len(d), threshold)).reshape(x.shape)


ROW, COLUMN = np.indices(SHAPE)
IMAGES = {
    "noise": draw(0),
    "walk": np.cumsum(np.cumsum(draw(1), axis=0), axis=1),
    "ties": np.round(draw(2)),
    "ramp": (ROW + 2.0 * COLUMN) / 3,
    "check": (-1.0) ** (ROW + COLUMN),
    "spike": ((ROW == 2) & (COLUMN == 3)) * 1.0,
    "ring": ((ROW % 4 == 0) | (COLUMN % 5 == 0)) + 0.1 * draw(3),
    "equal": np.full(SHAPE, 1 / 3),
    "zero": np.zeros(SHAPE),
    "offset": 1e3 + draw(4),
    "outlier": draw(5) + 1e4 * ((ROW == 0) & (COLUMN == 0)),
}
STRENGTHS = (0.0, 1e-3, 0.1, 0.4, 1.0, 3.0, 1e9)


@x64
@pytest.mark.parametrize("name", IMAGES)
def test_prox_and_optimality(name: str) -> None:
    x = IMAGES[name]
    tolerance = 1e-12 * (1 + np.abs(x).max())
    for strength in STRENGTHS:
        point = np.asarray(BOTH(x, strength))
        np.testing.assert_allclose(point, reference(x, strength), atol=tolerance)
        np.testing.assert_allclose(OPTIMALITY(point, point - x, strength), 0, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("name", [name for name in IMAGES if name != "outlier"])
def test_float32_over_the_whole_range(name: str, scale: float) -> None:
    x = (IMAGES[name] * scale).astype(np.float32)
    for strength in (0.1, 1.0, 1e6):
        point = np.asarray(BOTH(x, np.float32(strength * scale)), np.float64)
        expected = reference(x.astype(np.float64) / scale, strength) * scale
        np.testing.assert_allclose(point, expected, atol=16 * 1.2e-7 * np.abs(x).max())


def test_float32_with_an_outlier_keeps_the_stated_error() -> None:
    x = IMAGES["outlier"].astype(np.float32)
    for strength in (0.1, 1.0, 1e6):
        expected = reference(x.astype(np.float64), strength)
        np.testing.assert_allclose(BOTH(x, np.float32(strength)), expected, atol=64 * 1.2e-7 * 1e4)


@x64
def test_three_axes_and_the_axes_of_a_stack() -> None:
    x = draw(6, (3, 4, 2))
    for axes in ((0, 1, 2), (-1, 0)):
        penalty = jaxreg.total_variation(0.4, axes)
        found, point = jax.jit(lambda w, penalty=penalty: (penalty(w), penalty.prox(w, 1.0)))({"w": x})
        np.testing.assert_allclose(point["w"], reference(x, 0.4, axes), atol=1e-13)
        value = 0.4 * np.abs(differences(x.shape, axes) @ x.ravel()).sum()
        np.testing.assert_allclose(found, value, rtol=1e-14)


@x64
@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
def test_a_single_line_is_that_line(shape: tuple[int, ...]) -> None:
    x, slope = draw(7, shape), draw(8, shape)
    axis = int(np.argmax(shape))
    both, one = (jaxreg.total_variation(0.4, axes) for axes in ((0, 1), axis))
    point = both.prox(x, 1.0)
    np.testing.assert_allclose(point, one.prox(x, 1.0), atol=1e-15)
    np.testing.assert_allclose(both.optimality(point, slope), one.optimality(point, slope), atol=1e-14)


@x64
def test_a_tuple_of_one_axis_is_that_axis() -> None:
    x = draw(9)
    for axis in (0, 1):
        alone = jaxreg.total_variation(0.4, (axis,)).prox(x, 1.0)
        np.testing.assert_array_equal(alone, jaxreg.total_variation(0.4, axis).prox(x, 1.0))
    assert jaxreg.total_variation(0.4, [0, 1]) == jaxreg.total_variation(0.4, (0, 1))


@x64
def test_optimality_is_the_distance_that_a_solver_finds() -> None:
    """Also with l1 on top, whose subdifferential at zeros is an interval more for each."""
    w, slope = np.round(draw(10)), draw(11)
    d = differences(SHAPE)
    jumps = np.sign(d @ w.ravel())
    for absolute in (0.0, 0.25):
        penalty = jaxreg.l1(absolute) + jaxreg.total_variation(0.4, (0, 1))
        target = -slope.ravel() - 0.4 * d.T @ jumps - absolute * np.sign(w.ravel())
        pulls = np.concatenate([d, np.eye(w.size)])
        bound = np.concatenate([np.where(jumps == 0, 0.4, 0.0), np.where(w.ravel() == 0, absolute, 0.0)])
        expected = np.abs(nearest(target, pulls, bound)).reshape(SHAPE)
        np.testing.assert_allclose(penalty.optimality(w, slope), expected, atol=1e-12)
        assert 0 < np.count_nonzero(w) < w.size


@x64
def test_l1_may_be_added() -> None:
    x = draw(12)
    penalty = jaxreg.l1(0.15) + jaxreg.total_variation(0.3, (0, 1)) + jaxreg.l2(0.2)
    point = penalty.prox(x, 0.8)
    np.testing.assert_allclose(penalty.optimality(point, (point - x) / 0.8), 0, atol=1e-13)
    assert 0 < np.count_nonzero(point) < x.size


def regions(z: np.ndarray) -> np.ndarray:
    """Which elements belong together: those joined by a chain of equal neighbours."""
    d = differences(z.shape)
    joined = np.abs(d[(d @ z.ravel()) == 0])
    links = ((joined.T @ joined) + np.eye(z.size)) > 0
    return np.linalg.matrix_power(links.astype(float), z.size) > 0


@x64
def test_regions_are_equal_to_the_last_bit_and_derivatives_their_means() -> None:
    slopes = jax.jit(jax.jacfwd(BOTH, (0, 1)))
    for image, strength in ((IMAGES["ring"], 0.1), (IMAGES["noise"], 0.3), (IMAGES["walk"], 0.5)):
        point = np.asarray(BOTH(image, strength))
        together = regions(point)
        assert 1 < len(np.unique(point)) < point.size
        means = together / together.sum(axis=1)
        jacobian, found = slopes(image, strength)
        np.testing.assert_allclose(jacobian.reshape(point.size, -1), means, atol=1e-14)
        d = differences(SHAPE)
        slope = -means @ d.T @ np.sign(d @ point.ravel())
        np.testing.assert_allclose(found.ravel(), slope, atol=1e-14)
        small = 1e-7
        difference = (BOTH(image, strength + small) - BOTH(image, strength - small)) / (2 * small)
        np.testing.assert_allclose(found, difference, atol=1e-6)


@x64
def test_a_larger_image_stays_below_the_limit_of_passes() -> None:
    """Its own optimality is the oracle; in float32 the double precision result."""
    x = draw(13, (40, 40)) + np.repeat(np.repeat(draw(14, (4, 4)), 10, 0), 10, 1)
    penalty = jaxreg.total_variation(0.6, (0, 1))
    point = jax.jit(penalty.prox)(x, 1.0)
    assert len(np.unique(point)) < 400
    assert np.max(jax.jit(penalty.optimality)(point, point - x)) < 1e-13
    narrow = jax.jit(penalty.prox)(x.astype(np.float32), 1.0)
    np.testing.assert_allclose(narrow, point, atol=64 * 1.2e-7 * np.abs(x).max())


@x64
def test_stopped_early_the_result_still_descends(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(15, (12, 12))
    d = differences(x.shape)
    exact = np.asarray(BOTH(x, 0.5))
    monkeypatch.setattr(grids, "PASSES", 3)

    def cost(z: np.ndarray) -> float:
        return 0.5 * np.abs(d @ z.ravel()).sum() + 0.5 * float(np.sum((z - x) ** 2))

    borders = [jnp.full(shape, 0.5) for shape in ((11, 12), (12, 11))]
    early = np.asarray(jax.jit(grids._solve_grid)(x, borders))
    assert 1e-6 < np.max(np.abs(early - exact)) < 0.3
    assert cost(early) < cost(x)


@x64
def test_a_stack_of_grids_shares_nothing() -> None:
    x = draw(16, (3, *SHAPE)) * np.array([1.0, 1e9, 1e-9])[:, None, None]
    x[1, 0, 0] = np.nan
    point = np.asarray(jax.jit(jaxreg.total_variation(1e-10, (1, 2)).prox)(x, 1.0))
    for n in (0, 2):
        np.testing.assert_allclose(point[n], reference(x[n], 1e-10), rtol=0, atol=1e-13 * np.abs(x[n]).max())


def test_what_is_refused() -> None:
    def make(axis: Any) -> jaxreg.Penalty:
        return jaxreg.total_variation(1.0, axis)

    for axes in ((), (1, 1)):
        with pytest.raises(
            ValueError, match="The 'axis' parameter of total_variation must name different axes"
        ):
            make(axes)
    with pytest.raises(TypeError, match="The 'axis' parameter of total_variation must be an integer"):
        make((0, "x"))
    with pytest.raises(ValueError, match=r"along axis 2 needs that axis. The leaf 'b' has shape \(3, 3\)"):
        make((0, 2))({"b": jnp.ones((3, 3))})
    with pytest.raises(ValueError, match=r"along the axes \(0, -2\) needs different ones. The leaf 'b' has"):
        make((0, -2))({"b": jnp.ones((3, 3))})
    with pytest.raises(ValueError, match="The prox of total_variation needs one step size for each leaf"):
        make((0, 1)).prox({"b": jnp.ones((3, 3))}, {"b": jnp.ones((3, 3))})
    assert make((0, 1)).prox({"b": jnp.ones((0, 3))}, 1.0)["b"].shape == (0, 3)
