"""Every rule and its replay: slicing and computing commute.

The oracle is the function itself on the large arrays: what a group says may go is zeroed on the way in
and sliced away on the way out, and the recorded program on the smaller arrays must give the same.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxreg import structures
from jaxreg.structures.removal import Removal
from jaxreg.structures.replay import replay
from jaxreg.structures.tracing import find_groups, retrace

CONV = ("NHWC", "HWIO", "NHWC")
pool = functools.partial(
    lax.reduce_window, window_dimensions=(1, 2, 1), window_strides=(1, 2, 1), padding="VALID"
)


@jax.custom_vjp
def rounded(x):
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


def looped(x):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 2), (0, x))[1]


def scanned(x):
    return lax.scan(lambda c, row: (jnp.tanh(c + row), c * row), jnp.zeros(x.shape[1:]), x)[1]


def branched(x):
    return lax.switch(jnp.int32(x.size > 3), [lambda y: y, lambda y: y * 3, jnp.sin], x)


def one(x):
    return jnp.int32(x.sum() * 0 + 1)


def tiled(x, y):
    return jnp.tile(x, (3, 1)).T @ jnp.outer(y, y).reshape(9)


def fused(x):
    query, key, value = x.reshape(4, 3, 5).swapaxes(0, 1)
    return query * key + value


def depthwise(x, k):
    return lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=CONV, feature_group_count=x.shape[-1]
    )


def grouped(x, k):
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=CONV, feature_group_count=2)


def transposed(x, k):
    return lax.conv_transpose(x, k, (2, 2), "SAME", dimension_numbers=CONV)


# name: function, shapes of its arrays, the sizes of the groups that are found
CASES = {
    "elementwise": (lambda x, y: jnp.tanh(x) * y + 1, [(4, 6), (4, 6)], [4, 6]),
    "scalars": (lambda x: jnp.clip(x, -0.5, 0.5) ** 3, [(4, 6)], [4, 6]),
    "select": (lambda x, y: jnp.where(x > 0, x, y), [(4,), (4,)], [4]),
    "comparison of an axis of 1": (lambda x, y: x * y[:, None], [(4, 6), (4,)], [4, 6]),
    "transpose": (lambda x: x.transpose(2, 0, 1), [(2, 3, 4)], [2, 3, 4]),
    "squeeze": (lambda x: x[:, None].squeeze(1), [(4, 6)], [4, 6]),
    "merging reshape": (lambda x: x.reshape(4, 6), [(4, 2, 3)], [4, 2, 3]),
    "splitting reshape": (lambda x: x.reshape(2, 2, 3, 5), [(4, 15)], [2, 2, 3, 5]),
    "reshape across a boundary": (lambda x: x.reshape(4, 6, 5), [(6, 4, 5)], [5]),
    "broadcast": (lambda x: jnp.broadcast_to(x[:, None], (4, 3, 5)), [(4, 5)], [4, 5]),
    "repeat": (lambda x: jnp.repeat(x, 2, axis=1), [(4, 3)], [4, 3]),
    "tile": (lambda x: jnp.tile(x, (1, 2)), [(4, 3)], [4, 3]),
    "tile against a square": (tiled, [(3, 4), (3,)], [3, 4]),
    "parallel scan": (lambda x: lax.associative_scan(jnp.add, x, axis=0), [(5, 3)], [3]),
    "stack": (lambda x, y: jnp.stack([x, y], 1), [(4, 3), (4, 3)], [4, 3]),
    "concatenate": (lambda x, y: jnp.concatenate([x, y], 1), [(4, 3), (4, 5)], [4, 3, 5]),
    "split": (lambda x: [part * 2 for part in jnp.split(x, [2, 3], 1)], [(4, 6)], [4, 2, 3]),
    "slice": (lambda x: x[:, 1:4], [(4, 6)], [4, 3, 2]),
    "one of each pair": (lambda x: x[:, ::2] + x[:, 1::2], [(4, 6)], [4, 3]),
    "every other": (lambda x: x[:, ::2], [(4, 6)], [4, 3]),
    "last": (lambda x: x[-1] * x[:, -2:].sum(), [(4, 6)], [3, 4, 2]),
    "fused projection": (fused, [(4, 15)], [4, 5]),
    "padding": (lambda x: jnp.pad(x, ((0, 0), (2, 1))), [(4, 3)], [4, 3]),
    "padded and added": (lambda x, y: jnp.pad(x, ((0, 0), (2, 1))) + y, [(4, 3), (4, 6)], [4, 3, 2]),
    "reverse": (lambda x: jnp.flip(x, 1), [(4, 3)], [4]),
    "rotated halves": (lambda x: jnp.concatenate([-x[:, 3:], x[:, :3]], 1) + x, [(4, 6)], [4, 3]),
    "sum": (lambda x: x.sum(1), [(4, 6)], [4, 6]),
    "largest": (lambda x: jnp.abs(x).max(1), [(4, 6)], [4, 6]),
    "argument of the largest": (lambda x: x.argmax(1), [(4, 6)], [4]),
    "reduction of one's own": (lambda x: lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (1,)), [(4, 6)], [4]),
    "cumulative sum": (lambda x: jnp.cumsum(x, 1), [(4, 6)], [4]),
    "pooling": (lambda x: pool(x, 0.0, lax.add), [(2, 4, 3)], [2, 3]),
    "sort": (lambda x: jnp.sort(x, 1), [(4, 6)], [4]),
    "top k": (lambda x: lax.top_k(x, 2)[0], [(4, 6)], [4]),
    "matrix product": (jnp.matmul, [(4, 3), (3, 5)], [4, 3, 5]),
    "batched product": (lambda x, y: jnp.einsum("bij,bjk->bik", x, y), [(2, 4, 3), (2, 3, 5)], [2, 4, 3, 5]),
    "square of one array": (lambda x: x.T @ x, [(4, 3)], [4, 3]),
    "depthwise convolution": (depthwise, [(2, 4, 4, 3), (3, 3, 1, 3)], [2, 3]),
    "grouped convolution": (grouped, [(2, 4, 4, 6), (3, 3, 3, 4)], [2, 2, 3, 2]),
    "transposed convolution": (transposed, [(2, 4, 4, 3), (3, 3, 3, 5)], [2, 3, 5]),
    "embedding": (lambda x: x[jnp.array([2, 0, 1, 1])], [(3, 5)], [5]),
    "scatter": (lambda x: x.at[1:3].add(1.0), [(4, 5)], [5]),
    "static slice": (lambda x: lax.dynamic_slice(x, (1, 0), (2, 5)), [(4, 5)], [2, 5]),
    "dynamic slice": (lambda x: lax.dynamic_slice(x, (one(x), 0), (2, 5)), [(4, 5)], [5]),
    "dynamic update": (lambda x, y: lax.dynamic_update_slice(x, y, (one(x), 0)), [(4, 5), (2, 5)], [5]),
    "iota": (lambda x: x * jnp.arange(6.0), [(4, 6)], [4, 6]),
    "closed-over array": (lambda x: x + np.arange(6.0, dtype=np.float32), [(4, 6)], [4, 6]),
    "rematerialised": (jax.checkpoint(lambda x: jnp.sin(x) * 2), [(4, 6)], [4, 6]),
    "own derivative": (lambda x: jax.nn.relu(x) + jax.nn.silu(x), [(4, 6)], [4, 6]),
    "own pullback": (rounded, [(4, 6)], [4, 6]),
    "scan": (scanned, [(3, 5)], [5]),
    "while": (looped, [(4, 5)], [4, 5]),
    "switch": (branched, [(4, 5)], [4, 5]),
    "barrier": (lambda x, y: lax.optimization_barrier((x, y))[1], [(4,), (5,)], [4, 5]),
}  # fmt: skip


def traced(function, shapes):
    rng = np.random.default_rng(0)
    params = {f"p{n}": rng.normal(size=shape).astype(np.float32) for n, shape in enumerate(shapes)}
    graph = structures.trace(lambda p: function(*p.values()), params, free_outputs=True)
    return graph, params


@pytest.mark.parametrize("name", CASES)
def test_slicing_and_computing_commute(name):
    function, shapes, sizes = CASES[name]
    graph, params = traced(function, shapes)
    assert sorted(group.size for group in graph.groups) == sorted(sizes)
    trace = retrace(graph.recipe, params)
    rng = np.random.default_rng(1)
    left = {}
    for unit, group in find_groups(trace)[0]:
        left[unit] = np.sort(rng.permutation(group.size)[: (group.size + 1) // 2])
    removal = Removal(left)
    values = trace.program.inputs
    small = [removal.take(value, array) for value, array in zip(values, params.values(), strict=True)]
    zeroed = []
    for value, array in zip(values, params.values(), strict=True):
        kept = np.zeros(array.shape, bool)
        kept[np.ix_(*(removal.kept(dimension) for dimension in value.dims))] = True
        zeroed.append(np.where(kept, array, 0))
    found = jax.jit(lambda arrays: replay(trace.program, removal, arrays))(small)
    wanted = jax.tree.leaves(jax.jit(function)(*zeroed))
    for value, ours, theirs in zip(trace.program.outputs, found, wanted, strict=True):
        assert ours.shape == removal.shape(value)
        np.testing.assert_allclose(ours, removal.take(value, np.asarray(theirs)), rtol=1e-6, atol=1e-6)


def test_gradients_through_the_smaller_program_follow_the_functions_own_rules():
    graph, params = traced(lambda x: rounded(3 * x) + jax.nn.relu(x), [(4, 6)])
    trace = retrace(graph.recipe, params)
    (unit, _), *_ = find_groups(trace)[0]
    removal = Removal({unit: np.array([0, 2])})
    x = np.zeros((2, 6), np.float32)  # where relu's derivative is 0 by its rule, and the rounding's 1
    slope = jax.jit(jax.grad(lambda x: replay(trace.program, removal, [x])[0].sum()))(x)
    assert np.array_equal(slope, np.full((2, 6), 3.0))


def test_what_is_not_known_is_pinned_with_its_name_and_line():
    graph, _ = traced(lambda x: jnp.fft.fft(x).real, [(4, 6)])
    assert graph.groups == ()
    assert len(graph.pinned) == 2
    for pin in graph.pinned:
        assert "the primitive fft at" in pin.reason
        assert "test_rules.py" in pin.reason
