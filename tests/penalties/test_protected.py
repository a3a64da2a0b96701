"""The cap on zeros against its definition, element by element, and what it does in training."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxreg
from jaxreg import groups, masks

Tree = dict[str, Any]


@functools.partial(jax.jit, static_argnames=("structure",))
def moved(params: Tree, strength: Any, share: Any, step: Any = 1.0, structure: Any = None) -> Tree:
    penalty = jaxreg.l1(strength)
    return jaxreg.protected(penalty, max_zero_share=share, groups=structure).prox(params, step)


def by_definition(x: np.ndarray, threshold: Any, least: int) -> np.ndarray:
    z = np.array(np.sign(x) * np.maximum(np.abs(x) - threshold, 0))
    if np.count_nonzero(z) < min(least, np.count_nonzero(x)):
        first = np.argsort(-np.abs(x), axis=None, kind="stable")[:least]
        z.flat[first] = np.where(x.flat[first] != 0, x.flat[first], z.flat[first])
    return z


def draw(seed: int, kind: str) -> Tree:
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 4), "b": (), "c": (10,)}
    if kind == "ties":
        return {name: np.asarray(rng.integers(-2, 3, size=shape), float) for name, shape in shapes.items()}
    return {
        name: np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-2, 2))
        for name, shape in shapes.items()
    }


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_the_largest_live_in_each_leaf(kind: str) -> None:
    for seed in range(5):
        params = draw(seed, kind)
        for share in (0.0, 0.3, 0.5, 0.9, 0.99, 1.0):
            for strength in (0.01, 1.0, 1e6):
                found = moved(params, strength, share)
                for name, x in params.items():
                    least = x.size - int(share * x.size + 1e-9)
                    expected = by_definition(x, strength, least)
                    np.testing.assert_allclose(found[name], expected, rtol=1e-15)
                    np.testing.assert_array_equal(found[name] == 0, expected == 0)
                    assert np.count_nonzero(expected) >= min(least, np.count_nonzero(x))


@pytest.mark.parametrize(
    ("share", "size", "zeros"), [(0.9, 10, 9), (0.7, 10, 7), (0.29, 100, 29), (0.999, 3, 2)]
)
def test_the_cap_is_rounded_down(share: float, size: int, zeros: int) -> None:
    x = {"w": np.linspace(1.0, 2.0, size, dtype=np.float32)}
    for given in (share, np.float32(share), jnp.float32(share)):
        assert np.count_nonzero(moved(x, 1e3, given)["w"] == 0) == zeros


def test_of_equals_the_first_lives_and_zeros_stay() -> None:
    x = {"w": np.array([1.0, -2.0, 1.0, 0.0, 0.0, 1.0], np.float32)}
    np.testing.assert_array_equal(moved(x, 9.0, 0.5)["w"], [1.0, -2.0, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(moved(x, 9.0, 0.0)["w"], x["w"])
    emptier = {"w": np.array([0.0, 0.0, 3.0, 0.0], np.float32)}
    np.testing.assert_array_equal(moved(emptier, 1.0, 0.25)["w"], [0.0, 0.0, 2.0, 0.0])
    np.testing.assert_array_equal(moved(emptier, 9.0, 0.25)["w"], emptier["w"])


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-30, 1e30])
def test_extreme_leaves_are_finite(scale: float) -> None:
    x = {"w": (scale * np.arange(1, 9)).astype(np.float32)}
    for strength in (0.0, 1.0, 3e38):
        found = np.asarray(moved(x, strength, 0.75)["w"])
        assert np.all(np.isfinite(found))
    np.testing.assert_array_equal(found, x["w"] * (np.arange(8) > 5))
    nan = {"w": np.array([1.0, np.nan, 2.0, 3.0], np.float32)}
    np.testing.assert_array_equal(moved(nan, 9.0, 0.5)["w"], [0.0, np.nan, 0.0, 3.0])


def test_steps_per_element() -> None:
    x = np.array([4.0, 3.0, 2.0, 1.0], np.float32)
    step = {"w": np.array([5.0, 5.0, 5.0, 0.0], np.float32)}
    # What does not move lives; the cap is not reached.
    np.testing.assert_array_equal(moved({"w": x}, 1.0, 0.75, step)["w"], [0.0, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(moved({"w": x}, 1.0, 0.5, step)["w"], [4.0, 3.0, 0.0, 1.0])
    np.testing.assert_array_equal(moved({"w": x}, 1.0, 0.5, 0.0)["w"], x)


def test_groups_live_as_a_whole() -> None:
    x = np.array([[1.0, 0.1, 2.0, 0.0], [1.0, 0.2, 0.1, 0.0]], np.float32)
    found = moved({"w": x}, 9.0, 0.5, structure=groups.outputs())["w"]
    np.testing.assert_array_equal(found, x * [1, 0, 1, 0])
    lasso = jaxreg.protected(
        jaxreg.group_lasso(0.9, groups.outputs(), size_weights=False),
        max_zero_share=0.75,
        groups=groups.outputs(),
    )
    plain = jaxreg.group_lasso(0.9, groups.outputs(), size_weights=False)
    np.testing.assert_array_equal(lasso.prox(x, 1.0), plain.prox(x, 1.0))
    np.testing.assert_array_equal(lasso.prox(x, 9.0), x * [0, 0, 1, 0])


def test_exempt_leaves_are_left_out_altogether() -> None:
    params = {"head": jnp.array([0.5, 1.5]), "body": jnp.array([0.5, 1.5])}
    penalty = jaxreg.protected(jaxreg.l1(1.0), max_zero_share=1.0, exempt=masks.path("head"))
    assert penalty(params) == 2
    found = penalty.prox(params, 1.0)
    assert found["head"] is params["head"]
    np.testing.assert_array_equal(found["body"], [0.0, 0.5])
    distance = penalty.optimality(params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_array_equal(distance["head"], 0)
    np.testing.assert_array_equal(distance["body"], 1)
    with pytest.raises(ValueError, match="selects no leaf"):
        jaxreg.protected(jaxreg.l1(1.0), max_zero_share=1.0, exempt=masks.min_ndim(4))(params)


def test_sums_inside_and_outside() -> None:
    x = {"w": jnp.array([4.0, 2.0, 1.0, 0.5])}
    inside = jaxreg.protected(jaxreg.l1(3.0) + jaxreg.l2(0.5), max_zero_share=0.5)
    np.testing.assert_allclose(inside(x), 3 * 7.5 + 0.5 * 21.25)
    np.testing.assert_array_equal(inside.prox(x, 1.0)["w"], [4.0, 2.0, 0.0, 0.0])
    outside = jaxreg.protected(jaxreg.l1(3.0), max_zero_share=0.5) + jaxreg.l2(0.5)
    np.testing.assert_allclose(outside.prox(x, 1.0)["w"], [2.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(outside(x), inside(x))
    with pytest.raises(ValueError, match="sum of protected and l1 has no exact prox"):
        (jaxreg.protected(jaxreg.l1(1.0), max_zero_share=0.5) + jaxreg.l1(1.0)).prox(x, 1.0)
    # A penalty that makes no zeros is not held, however empty the leaf is.
    ridge = jaxreg.protected(jaxreg.l2(0.5), max_zero_share=0.1)
    np.testing.assert_allclose(ridge.prox(jnp.array([0.0, 2.0, 0.0, 0.0]), 1.0), [0.0, 1.0, 0.0, 0.0])


def test_scale_goes_to_the_penalty() -> None:
    penalty = jaxreg.protected(jaxreg.l1(1.0), max_zero_share=0.5, exempt=masks.path("a"))
    expected = jaxreg.protected(jaxreg.l1(2.0), max_zero_share=0.5, exempt=masks.path("a"))
    assert penalty.scale(2.0) == expected
    assert hash(penalty.scale(2.0)) == hash(expected)


def test_any_penalty_keeps_a_layer_alive() -> None:
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    penalties = [
        jaxreg.l0(1e3),
        jaxreg.mcp(1e3),
        jaxreg.sparse_group_lasso(1e3, groups.outputs(), 0.5),
        jaxreg.top_k(1),
        jaxreg.n_m_sparsity(1, 8),
    ]
    for penalty in penalties:
        found = jaxreg.protected(penalty, max_zero_share=0.75).prox(x, 1.0)
        expected = by_definition(x, 1e6, 8)
        np.testing.assert_array_equal(found, expected)


def test_derivatives() -> None:
    x = jnp.array([3.0, 2.0, -1.0, 0.0])

    def total(x: jax.Array, strength: Any, share: Any) -> jax.Array:
        return jnp.sum(jaxreg.protected(jaxreg.l1(strength), max_zero_share=share).prox(x, 1.0) ** 2)

    slopes = jax.grad(total, (0, 1, 2))(x, 0.5, 0.5)
    np.testing.assert_array_equal(slopes[0], [5.0, 3.0, -1.0, 0.0])
    assert slopes[1] == -9.0
    assert slopes[2] == 0
    slopes = jax.grad(total, (0, 1))(x, 9.0, 0.5)
    np.testing.assert_array_equal(slopes[0], [6.0, 4.0, 0.0, 0.0])
    assert slopes[1] == 0


def test_sharded_leaves_stay_sharded() -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    sharding = NamedSharding(mesh, PartitionSpec("d", None))
    x = np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32)
    found = moved({"w": jax.device_put(x, sharding)}, 9.0, 0.9)["w"]
    np.testing.assert_array_equal(found, by_definition(x, 9.0, 5))
    assert found.sharding.is_equivalent_to(sharding, 2)


@pytest.mark.parametrize("make", [jaxreg.prox_sgd, jaxreg.prox_adam])
def test_in_training_the_cap_works_like_a_smaller_strength(make: Any) -> None:
    """Alone l1 empties the leaf; held at 15 zeros of 20, what lives is not pinned to one step's threshold."""
    rng = np.random.default_rng(2)
    target = jnp.asarray(rng.uniform(0.2, 1.0, size=20), jnp.float32)
    rate, strength = 0.02, 1.5

    def train(penalty: jaxreg.Penalty) -> jax.Array:
        optimizer = make(rate, penalty)

        def step(carry: Any, _: Any) -> Any:
            w, state = carry
            updates, state = optimizer.update(w - target, state, w)
            w = optax.apply_updates(w, updates)
            return (w, state), w

        start = jnp.asarray(0.1 * rng.normal(size=20), jnp.float32)
        return jax.lax.scan(step, (start, optimizer.init(start)), length=2000)[1]

    assert not np.any(train(jaxreg.l1(strength))[-1])
    path = train(jaxreg.protected(jaxreg.l1(strength), max_zero_share=0.75))
    alive = np.count_nonzero(path, axis=1)
    assert alive.min() >= 5
    assert alive[-1] == 5
    largest = np.sort(np.mean(path[-200:], axis=0))[-3:]
    assert np.all(largest > rate * strength)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"'penalty' parameter of protected must be a jaxreg.Penalty"):
        jaxreg.protected(0.1, max_zero_share=0.5)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(
            ValueError, match=r"'max_zero_share' parameter of protected must be a number in \[0, 1\]"
        ):
            jaxreg.protected(jaxreg.l1(0.1), max_zero_share=bad)
    with pytest.raises(TypeError, match="'max_zero_share' parameter of protected must be"):
        jaxreg.protected(jaxreg.l1(0.1), max_zero_share="0.5")
    with pytest.raises(TypeError, match="'groups' parameter of protected must be a structure"):
        jaxreg.protected(jaxreg.l1(0.1), max_zero_share=0.5, groups="outputs")
    with pytest.raises(TypeError, match="mask"):
        jaxreg.protected(jaxreg.l1(0.1), max_zero_share=0.5, exempt="head")
    held = jaxreg.protected(jaxreg.l1(0.1), max_zero_share=0.5, groups=groups.outputs())
    with pytest.raises(ValueError, match="leaf 'bias' has shape"):
        held.prox({"bias": jnp.ones(3)}, 1.0)
    with pytest.raises(ValueError, match="leaf 'bias' has shape"):
        jaxreg.prox_sgd(0.1, held).init({"bias": jnp.ones(3)})
