"""Group penalties that are solved by a level, against root finders on one group at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxreg
from jaxreg import groups

ROW = groups.inputs()
LINF = jax.jit(lambda x, s, step: jaxreg.group_linf(s, ROW).prox({"w": x}, {"w": step})["w"])
EXCLUSIVE = jax.jit(lambda x, s, step: jaxreg.exclusive_lasso(s, ROW).prox({"w": x}, {"w": step})["w"])
PROX = {"group_linf": LINF, "exclusive_lasso": EXCLUSIVE}
each = pytest.mark.parametrize("name", PROX)


def linf(x: np.ndarray, t: float, s: np.ndarray) -> np.ndarray:
    """One group, by a root finder on the level in units of the largest element."""
    top = np.abs(x).max()
    floor = np.abs(x[s == 0]).max(initial=0.0)
    if t == 0 or top == 0:
        return x
    move, size = s > 0, np.abs(x) / top

    def excess(level: float) -> float:
        return np.sum(np.maximum(size - level, 0)[move] / s[move]) - t / top

    level = optimize.brentq(excess, 0.0, 1.0, xtol=1e-16) if excess(0.0) > 0 else 0.0
    return np.where(move, np.sign(x) * np.minimum(np.abs(x), max(level * top, floor)), x)


def exclusive(x: np.ndarray, t: float, s: np.ndarray) -> np.ndarray:
    total = np.abs(x).sum()
    if total == 0:
        return x
    size = np.abs(x) / total
    root = optimize.brentq(lambda c: np.maximum(size - s * t * c, 0).sum() - c, 0.0, 1.0, xtol=1e-16)
    return np.sign(x) * np.maximum(np.abs(x) - s * t * root * total, 0)


REFERENCE = {"group_linf": linf, "exclusive_lasso": exclusive}


def rows(seed: int = 0) -> np.ndarray:
    """Rows that are random, with ties, with zeros, equal, zero, and geometric over thirty decades."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 9))
    x[1] = np.round(2 * x[1])
    x[2, ::2] = 0
    x[3], x[4] = 0.7, 0.0
    x[5] = 10.0 ** -np.linspace(0, 12, 9)
    return x


@pytest.mark.usefixtures("x64")
@each
@pytest.mark.parametrize("kind", ["one step", "steps", "steps and zeros"])
def test_prox(name: str, kind: str) -> None:
    rng = np.random.default_rng(1)
    x = rows()
    step = np.full(x.shape, 0.6) if kind == "one step" else 10.0 ** rng.uniform(-3, 1, size=x.shape)
    if kind == "steps and zeros":
        step[rng.random(x.shape) < 0.3] = 0.0
        step[0] = 0.0
    for strength in (0.0, 1e-6, 0.1, 1.0, 4.0, 1e3):
        found = PROX[name](x, strength, np.float64(0.6) if kind == "one step" else step)
        for row, one, s in zip(np.asarray(found), x, step, strict=True):
            np.testing.assert_allclose(row, REFERENCE[name](one, strength, s), atol=3e-15, rtol=1e-11)


@each
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_float32_over_the_whole_range(name: str, scale: float) -> None:
    x = (rows(2) * scale).astype(np.float32)
    factor = scale if name == "group_linf" else 1.0
    for strength in (0.2, 1.5):
        found = np.asarray(PROX[name](x, np.float32(strength * factor), np.float32(1.0)), np.float64)
        for row, one in zip(found, x.astype(np.float64), strict=True):
            expected = REFERENCE[name](one, strength * factor, np.ones(one.shape))
            np.testing.assert_allclose(row, expected, atol=16 * 1.2e-7 * np.abs(one).max())


@pytest.mark.usefixtures("x64")
def test_cut_elements_are_equal_and_the_excess_is_the_strength() -> None:
    """Moreau: what linf's prox cuts off is the projection on an l1 ball."""
    x = rows()
    cut = x - np.asarray(LINF(x, 0.9, 1.0))
    np.testing.assert_allclose(np.abs(cut).sum(1), np.minimum(np.abs(x).sum(1), 0.9), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@each
def test_groups_of_one_and_size_weights(name: str) -> None:
    x = {"w": rows()[0]}
    single = groups.chunks(1, axis=0)
    if name == "group_linf":
        alone, expected = jaxreg.group_linf(0.4, single), jaxreg.l1(0.4)
        weighted = jaxreg.group_linf(0.4, groups.layers(), size_weights=True)
        np.testing.assert_allclose(weighted(x), 9 * jaxreg.group_linf(0.4, groups.layers())(x))
        np.testing.assert_allclose(
            weighted.prox(x, 0.1)["w"], jaxreg.group_linf(3.6, groups.layers()).prox(x, 0.1)["w"]
        )
    else:
        alone, expected = jaxreg.exclusive_lasso(0.4, single), jaxreg.l2(0.2)
    np.testing.assert_allclose(alone(x), expected(x), rtol=1e-14)
    np.testing.assert_allclose(alone.prox(x, 0.7)["w"], expected.prox(x, 0.7)["w"], atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_optimality_of_linf_in_numbers() -> None:
    """Two equal tops share the strength; below the top the pull itself is the distance."""
    x, slope = jnp.array([[2.0, -2.0, 1.0]]), jnp.array([[-0.9, 0.3, 0.05]])
    penalty = jaxreg.group_linf(1.0, ROW)
    expected = np.hypot(np.hypot(-0.9 + 0.8, 0.3 - 0.2), 0.05)
    np.testing.assert_allclose(penalty.optimality(x, slope), np.full((1, 3), expected), rtol=1e-12)
    at_zero = penalty.optimality(jnp.zeros((1, 3)), jnp.array([[0.5, 0.2, -0.3]]))
    np.testing.assert_allclose(at_zero, 0, atol=1e-15)
    far = penalty.optimality(jnp.zeros((1, 2)), jnp.array([[1.5, 0.0]]))
    np.testing.assert_allclose(far, 0.5, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@each
@pytest.mark.parametrize("per_element", [False, True])
def test_l1_composes_exactly(name: str, per_element: bool) -> None:
    x = {"w": rows(3)}
    step = {"w": 10.0 ** np.random.default_rng(4).uniform(-2, 1, size=(6, 9))} if per_element else 0.7
    both = jaxreg.l1(0.2) + getattr(jaxreg, name)(0.8, ROW) + jaxreg.l2(0.1)
    point = both.prox(x, step)
    slope = {"w": (point["w"] - x["w"]) / (step["w"] if per_element else step)}
    np.testing.assert_allclose(both.optimality(point, slope)["w"], 0, atol=1e-12)


@pytest.mark.usefixtures("x64")
@each
def test_groups_over_several_leaves_and_complex_numbers(name: str) -> None:
    x = rows(5)
    turned = x * np.exp(1j * np.random.default_rng(6).uniform(0, 6, size=x.shape))
    found = getattr(jaxreg, name)(0.8, ROW).prox({"w": turned}, 0.5)["w"]
    np.testing.assert_allclose(np.abs(found), np.abs(PROX[name](x, 0.8, 0.5)), atol=1e-14)
    np.testing.assert_allclose(found * np.abs(turned), np.abs(found) * turned, atol=1e-14)


@pytest.mark.usefixtures("x64")
@each
def test_derivatives(name: str) -> None:
    """In the elements, the strength and the steps, twice in the strength, with a dead group in between."""
    x, step = rows(7), np.full((6, 9), 0.5)
    x[1] *= 0.01
    x[3] *= 1 + 0.1 * np.arange(9)  # no ties, where the derivative has sides

    def total(x: jax.Array, strength: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.sum(PROX[name](x, strength, step) ** 3)

    slopes = jax.jit(jax.grad(total, (0, 1, 2)))(x, 0.7, step)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    small = 1e-6
    along = np.random.default_rng(8).normal(size=x.shape) * (x != 0)
    pairs = [
        (slopes[0], along, total(x + small * along, 0.7, step) - total(x - small * along, 0.7, step)),
        (slopes[1], 1.0, total(x, 0.7 + small, step) - total(x, 0.7 - small, step)),
        (slopes[2], along, total(x, 0.7, step + small * along) - total(x, 0.7, step - small * along)),
    ]
    for slope, direction, difference in pairs:
        np.testing.assert_allclose(np.sum(slope * direction), difference / (2 * small), rtol=1e-6, atol=1e-8)
