"""Sparse starts: exact counts, unchanged size, keys of their own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from formulas import stripes, tiles
from helpers import assert_same_bits

import jaxreg
from jaxreg import groups, masks

KEY = jax.random.key(0)


def model(dtype: Any = jnp.float32) -> dict[str, Any]:
    return {
        "first": {"kernel": jax.random.normal(jax.random.key(1), (40, 50), dtype), "bias": jnp.ones(50)},
        "second": {"kernel": jax.random.normal(jax.random.key(2), (40, 50), dtype), "bias": jnp.ones(50)},
    }


@pytest.mark.parametrize(
    ("density", "count"), [(0.01, 20), (0.25, 500), (1.0, 2000), (1e-9, 1), (0.0101, 20), (0.0103, 21)]
)
def test_the_count_is_exact_and_what_stays_is_scaled(density: float, count: int) -> None:
    params = model()
    new = jaxreg.sparse_initialization(params, density, KEY)
    for name in params:
        old, kernel = np.asarray(params[name]["kernel"]), np.asarray(new[name]["kernel"])
        assert (kernel != 0).sum() == count
        np.testing.assert_allclose(kernel[kernel != 0], old[kernel != 0] * np.sqrt(2000 / count), rtol=1e-6)
        assert new[name]["bias"] is params[name]["bias"]


def test_the_second_moment_is_kept() -> None:
    kernel = jax.random.normal(jax.random.key(3), (500, 400))
    new = jaxreg.sparse_initialization({"kernel": kernel}, 0.1, KEY)["kernel"]
    # 20,000 squares of variance 2 remain: an error of 1 % is one standard deviation.
    np.testing.assert_allclose(jnp.mean(new**2), jnp.mean(kernel**2), rtol=0.04)
    outputs = jax.random.normal(jax.random.key(4), (2000, 500)) @ new
    np.testing.assert_allclose(jnp.var(outputs), 500, rtol=0.06)


@pytest.mark.parametrize(
    ("structure", "members", "count"),
    [
        (groups.outputs(), [np.arange(4) == j for j in range(4)], 2),
        (groups.blocks((4, 3), ragged=True), tiles(4, 3), 2),
        (groups.strided(2, axis=0), stripes(2), 4),
        (groups.layers(), [np.full((8, 4), True)], 1),
    ],
    ids=["outputs", "ragged blocks", "strided", "layers"],
)
def test_groups_stay_or_go_as_a_whole(structure: Any, members: Any, count: int) -> None:
    kernel = jnp.ones((8, 4))
    new = jaxreg.sparse_initialization({"kernel": kernel}, 0.5, KEY, groups=structure)["kernel"]
    shares = [np.mean(np.asarray(new)[np.broadcast_to(m, (8, 4))] != 0) for m in members]
    assert set(shares) <= {0.0, 1.0}
    assert sum(shares) == count
    np.testing.assert_allclose(new[new != 0], np.sqrt(len(members) / count), rtol=1e-6)


def test_every_place_is_equally_likely() -> None:
    draw = jax.vmap(lambda key: jaxreg.sparse_initialization(jnp.ones((2, 3)), 1 / 3, key))
    share = jnp.mean(draw(jax.random.split(KEY, 3000)) != 0, axis=0)
    np.testing.assert_allclose(share, 1 / 3, atol=0.04)


def zeros_of(tree: Any, name: str) -> bytes:
    return np.asarray(tree[name]["kernel"] == 0).tobytes()


def test_zeros_follow_the_key_and_the_leaf() -> None:
    first, again = (jaxreg.sparse_initialization(model(), 0.1, KEY) for _ in range(2))
    other = jaxreg.sparse_initialization(model(), 0.1, jax.random.key(1))
    assert_same_bits(first, again)
    assert zeros_of(first, "first") != zeros_of(first, "second")
    assert zeros_of(first, "first") != zeros_of(other, "first")
    legacy = jaxreg.sparse_initialization(model(), 0.1, jax.random.PRNGKey(0))
    assert_same_bits(first, legacy)


def test_keys_that_the_user_split_are_not_drawn_from_again() -> None:
    """``fold_in(key, i)`` would be ``split(key)[i]``, of which the weights were made."""
    params = {"kernel": jax.random.normal(KEY, (6, 5))}
    zeros = jaxreg.sparse_initialization(params, 0.1, KEY)["kernel"] == 0
    for index in range(20):
        key = jax.random.split(KEY, 20)[index]
        assert jnp.any((jax.random.permutation(key, 30) >= 3).reshape(6, 5) != zeros)


def test_under_jit_with_a_traced_density() -> None:
    make = jax.jit(lambda params, density, key: jaxreg.sparse_initialization(params, density, key))
    for density in (0.1, 0.37):
        actual = make(model(), density, KEY)
        expected = jaxreg.sparse_initialization(model(), density, KEY)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)
    assert make._cache_size() == 1
    abstract = jax.eval_shape(make, model(), 0.1, KEY)
    assert jax.tree.map(lambda x: x.shape, abstract) == jax.tree.map(lambda x: x.shape, model())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes_are_kept(dtype: Any) -> None:
    new = jaxreg.sparse_initialization(model(dtype), 0.1, KEY)["first"]["kernel"]
    assert new.dtype == dtype
    assert jnp.sum(new != 0) == 200


def test_holes_integers_and_infinities() -> None:
    params = {
        "kernel": jnp.full((2, 2), jnp.inf),
        "hole": None,
        "masked": optax.MaskedNode(),
        "steps": jnp.arange(3),
    }
    new = jaxreg.sparse_initialization(params, 0.5, KEY, mask=None)
    assert new["hole"] is None
    assert new["masked"] == optax.MaskedNode()
    assert new["steps"] is params["steps"]
    assert jnp.sum(new["kernel"] == 0) == 2  # no 0 times infinity


def test_the_mask_chooses() -> None:
    params = model()
    new = jaxreg.sparse_initialization(params, 0.1, KEY, mask=masks.path("first/*"))
    assert jnp.sum(new["first"]["bias"] != 0) == 5
    assert new["second"]["kernel"] is params["second"]["kernel"]
    everything = jaxreg.sparse_initialization(params, 0.1, KEY, mask=None)
    assert jnp.sum(everything["second"]["bias"] != 0) == 5


def test_linbreg_trains_from_it() -> None:
    """A start with one weight in a hundred grows, and its zeros are exact until then."""
    params = jaxreg.sparse_initialization(model(), 0.01, KEY)
    optimizer = jaxreg.linbreg(0.1, jaxreg.l1(1.0, mask=masks.weights))
    state = optimizer.init(params)
    grads = jax.tree.map(lambda w: -jnp.ones_like(w).at[0].set(-30.0), params)
    params, _ = jaxreg.step(optimizer, grads, state, params)
    alive = np.asarray(params["first"]["kernel"] != 0)
    assert alive[0].all()
    assert alive[1:].sum() <= 20


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        *(
            (
                lambda density=density: jaxreg.sparse_initialization(model(), density, KEY),
                ValueError,
                f"The 'density' parameter of sparse_initialization must be a number in (0, 1]. Got {density}",
            )
            for density in (0.0, -0.1, 1.1, float("nan"))
        ),
        (lambda: jaxreg.sparse_initialization(model(), None, KEY), TypeError, "a number in (0, 1]. Got None"),
        (
            lambda: jaxreg.sparse_initialization(model(), 0.1, KEY, groups="rows"),
            TypeError,
            "The 'groups' parameter of sparse_initialization must be a structure from jaxreg.groups",
        ),
        (
            lambda: jaxreg.sparse_initialization({"bias": jnp.ones(3)}, 0.1, KEY),
            ValueError,
            "The mask weights selects no leaf",
        ),
    ],
)
def test_bad_arguments(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)
