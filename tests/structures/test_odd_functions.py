"""Functions of a hidden layer that could go wrong: what has no units, what keeps them, what loses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures.models.case import dense, draw, filled
from structures.oracles import compiled, dead_units, with_zeros

import jaxreg
from jaxreg import structures

X = draw(16, 5)
ORDER = np.array([3, 1, 2, 0, 4, 5, 6, 7])
UPPER = np.triu(np.ones((8, 8), np.float32))


def network(middle):
    """The function between two layers, and parameters for its width."""

    def apply(params, x):
        x = middle(x @ params["0"]["kernel"] + params["0"]["bias"])
        return x @ params["1"]["kernel"] + params["1"]["bias"]

    width = jax.eval_shape(middle, jax.ShapeDtypeStruct((16, 8), jnp.float32)).shape[-1]
    return apply, filled({"0": dense(5, 8), "1": dense(width, 3)})


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape),
        lambda x: x * jax.random.bernoulli(jax.random.PRNGKey(0), 0.5, x.shape),
        lambda x: jnp.zeros((16, 8)).at[:, ORDER].add(x),
        lambda x: jnp.take_along_axis(x, jnp.argsort(-x, axis=-1)[:, :4], axis=-1),
        lambda x: x + jnp.roll(x, 1, axis=-1),
        lambda x: x - jnp.median(x, axis=-1, keepdims=True),
        lambda x: jnp.fft.fft(x).real,
        lambda x: x.T.reshape(16, 8),
    ],
    ids=["dropout", "dropout_of_old_keys", "scatter", "sort", "roll", "median", "fft", "mixed_with_batch"],
)
def test_what_cannot_be_followed_has_no_groups(middle):
    apply, params = network(middle)
    assert structures.trace(apply, params, X).groups == ()


def kept_after(middle):
    """Units left, of those there were, when half of them are dead; checked to change nothing."""
    apply, params = network(middle)
    graph = structures.trace(apply, params, X)
    assert graph.groups
    params = with_zeros(params, dead_units(graph.groups))
    small = jaxreg.compact(graph, params)
    before, after = (
        compiled(apply, params, X)(params, X),
        compiled(small.apply, small.params, X)(small.params, X),
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    return [(len(kept), group.size) for kept, group in zip(small.kept, graph.groups, strict=True)]


@pytest.mark.parametrize(
    ("middle", "left"),
    [
        (lambda x: jax.lax.associative_scan(jnp.add, x, axis=0), [(4, 8)]),
        (lambda x: x * jax.nn.one_hot(jnp.arange(16) % 8, 8), [(4, 8)]),
        (lambda x: (x[:, :, None] * x[:, None] * UPPER).sum(2), [(4, 8)]),
        (lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), [(4, 8)]),
        (lambda x: x.reshape(16, 4, 2)[:, :, ::-1].reshape(16, 8), [(2, 4)]),
        (lambda x: x[:, 1::2] * x[:, ::2], [(2, 4)]),
        (lambda x: x * jnp.prod(1 + x / 9, axis=-1, keepdims=True), [(4, 8)]),
        (lambda x: jax.lax.dynamic_update_slice(jnp.zeros((20, 8)), x, (2, 0))[2:18], [(4, 8)]),
    ],
    ids=["scan_of_rows", "one_hot", "pairs", "norm", "swapped_pairs", "strides", "product", "update"],
)
def test_what_is_followed_loses_its_dead(middle, left):
    assert kept_after(middle) == left


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True),
        lambda x: x - jax.nn.logsumexp(x, axis=-1, keepdims=True),
        lambda x: x + jnp.prod(x, axis=-1, keepdims=True),
        lambda x: x - x.min(-1, keepdims=True),
        lambda x: x / (1 + (x >= 0).sum(-1, keepdims=True)),
        lambda x: jax.lax.cond((x == 0).sum() > 10, lambda: x * 2, lambda: x),
        lambda x: jax.lax.while_loop(lambda c: jnp.abs(c).max() > 1.0, lambda c: c / 2, x),
    ],
    ids=["std", "logsumexp", "product", "min", "count", "cond", "while"],
)
def test_what_sees_the_dead_keeps_them(middle):
    assert kept_after(middle) == [(8, 8)]


def test_an_infinite_constant_is_not_folded():
    apply, params = network(lambda x: jnp.log(x * x))
    graph = structures.trace(apply, params, X)
    small = jaxreg.compact(graph, with_zeros(params, dead_units(graph.groups)))
    assert [len(kept) for kept in small.kept] == [8]
    np.testing.assert_array_equal(small.params["1"]["bias"], params["1"]["bias"])
