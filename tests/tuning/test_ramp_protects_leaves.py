"""A ramp of exact zeros keeps some units of each leaf alive, and meets its share all the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import apply

import jaxreg
from jaxreg import groups

METHODS = pytest.mark.parametrize("method", ["strength", "projection"])
# All of the first leaf are smaller than any of the second.
UNEVEN = {"small": np.linspace(0.01, 0.1, 10), "large": np.linspace(1.0, 4.0, 30)}
MOVES = {"small": np.full(10, 1e-3), "large": np.full(30, 1e-3)}


L1 = jaxreg.l1(1.0)


def one_step(params, moves, target, *, penalty=L1, **options):
    params, moves = (
        jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree) for tree in (params, moves)
    )
    link = jaxreg.target_sparsity(penalty, 0.1, target, begin_step=0, end_step=1, **options)
    return jax.jit(apply(link))(moves, link.init(params), params)[0]


def alive(params):
    return {name: int(np.sum(np.any(np.atleast_2d(leaf) != 0, axis=0))) for name, leaf in params.items()}


@METHODS
@pytest.mark.parametrize(
    ("max_zero_share", "expected"), [(None, (2, 18)), (1.0, (0, 20)), (0.9, (1, 19)), (0.5, (5, 15))]
)
@pytest.mark.parametrize("grouped", [False, True], ids=["elements", "groups"])
def test_the_largest_of_a_leaf_live_and_the_share_is_met(method, max_zero_share, expected, grouped):
    penalty, params, moves = L1, UNEVEN, MOVES
    if grouped:
        penalty = jaxreg.group_lasso(1.0, groups.outputs())
        params, moves = (jax.tree.map(lambda leaf: np.stack([leaf, leaf]), tree) for tree in (UNEVEN, MOVES))
    new = one_step(params, moves, 0.5, penalty=penalty, method=method, max_zero_share=max_zero_share)
    assert tuple(alive(new)[name] for name in ("small", "large")) == expected
    for name, count in zip(("small", "large"), expected, strict=True):
        last = np.atleast_2d(new[name])[:, UNEVEN[name].size - count :]
        assert np.all(last != 0)


def test_what_a_leaf_needs_is_not_shrunk_when_it_would_vanish():
    moves = {"small": np.full(10, 1e-3), "large": np.full(30, 1.0)}  # withstand more than small weights do
    new = one_step(UNEVEN, moves, 0.5)
    np.testing.assert_allclose(new["small"][-2:], UNEVEN["small"][-2:] + 1e-3, rtol=1e-6)
    assert np.all(new["large"][-18:] < UNEVEN["large"][-18:] + 1.0)


@METHODS
def test_one_of_several_lives_as_long_as_the_target_allows(method):
    params = {"tiny": np.full(3, 0.01), "single": np.full(1, 0.01), "large": np.linspace(1.0, 2.0, 36)}
    moves = jax.tree.map(lambda leaf: np.full_like(leaf, 1e-4), params)
    assert alive(one_step(params, moves, 0.9, method=method)) == {"tiny": 1, "single": 0, "large": 3}
    assert alive(one_step(params, moves, 0.97, method=method)) == {"tiny": 0, "single": 0, "large": 1}


@METHODS
def test_layers_that_are_units_may_go(method):
    penalty = jaxreg.group_lasso(1.0, groups.layers(), size_weights=False)
    params = {name: np.full((2, 2), size) for name, size in zip("abcd", (1.0, 0.1, 2.0, 0.2), strict=True)}
    moves = jax.tree.map(lambda leaf: np.full_like(leaf, 1e-3), params)
    new = one_step(params, moves, 0.5, penalty=penalty, method=method)
    assert [name for name in "abcd" if np.any(new[name] != 0)] == ["a", "c"]


@METHODS
def test_a_leaf_that_is_empty_and_does_not_move_takes_nobody_elses_place(method):
    params = {"empty": np.zeros(10), "large": np.linspace(1.0, 2.0, 30)}
    moves = {"empty": np.zeros(10), "large": np.full(30, 1e-3)}
    assert alive(one_step(params, moves, 0.5, method=method)) == {"empty": 0, "large": 20}


@METHODS
def test_on_the_way_the_share_left_to_a_leaf_falls_with_the_ramp(method):
    link = jaxreg.target_sparsity(L1, 0.1, 0.8, begin_step=0, end_step=8, method=method)
    optimizer = optax.chain(optax.sgd(0.1), link)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), UNEVEN)
    state, update = optimizer.init(params), jax.jit(apply(optimizer))
    counts = []
    for _ in range(8):
        params, state = update(jax.tree.map(jnp.zeros_like, params), state, params)
        counts.append((alive(params)["small"], alive(params)["large"]))
    shares = 0.8 * (1 - (1 - np.arange(1, 9) / 8) ** 3)
    np.testing.assert_array_equal([sum(pair) for pair in counts], 40 - np.round(40 * shares))
    least = np.maximum(np.floor(0.5 * (1 - shares) * 10 + 1e-6), 1)
    np.testing.assert_array_equal([small for small, _ in counts], least)


def test_a_traced_share_does_not_recompile():
    traces = []

    @jax.jit
    def run(max_zero_share):
        traces.append(1)
        link = jaxreg.target_sparsity(L1, 0.1, 0.5, begin_step=0, end_step=1, max_zero_share=max_zero_share)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), UNEVEN)
        return apply(link)(jax.tree.map(jnp.zeros_like, params), link.init(params), params)[0]

    assert [alive(run(share))["small"] for share in (0.5, 0.9, 1.0)] == [5, 1, 0]
    assert len(traces) == 1
