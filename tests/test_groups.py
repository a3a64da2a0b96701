"""Structures against loops over indices."""

import collections
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxreg
from jaxreg import groups

# Oracles: the label of the group that an index of a leaf belongs to.


def keep(*axes):
    return lambda index, shape: tuple(index[axis] for axis in axes)


def tiles(*sizes):
    def label(index, shape):
        del shape
        lead = len(index) - len(sizes)
        return index[:lead] + tuple(i // size for i, size in zip(index[lead:], sizes, strict=True))

    return label


def runs(size, axis):
    def label(index, shape):
        axis_ = axis % len(shape)
        return (*index[:axis_], index[axis_] // size, *index[axis_ + 1 :])

    return label


def strides(stride, axis):
    def label(index, shape):
        axis_ = axis % len(shape)
        return (*index[:axis_], index[axis_] % stride, *index[axis_ + 1 :])

    return label


def whole(index, shape):
    del index, shape
    return ()


ATTENTION = {"query": (6, 2, 3), "key": (6, 2, 3), "value": (6, 2, 3), "out": (2, 3, 6)}


def attention(**labels):
    """One oracle for each projection of a Flax attention block."""
    return {f"attn/{name}/kernel": (ATTENTION[name], label) for name, label in labels.items()}


SPLIT = dict.fromkeys(["query", "key", "value"])

CASES = {
    # name: (structure, {path: (shape, oracle)})
    "outputs, dense": (groups.outputs(), {"kernel": ((4, 3), keep(1))}),
    "outputs, conv 1-D": (groups.outputs(), {"kernel": ((3, 2, 4), keep(2))}),
    "outputs, conv 2-D": (groups.outputs(), {"kernel": ((3, 2, 2, 4), keep(3))}),
    "outputs, conv 3-D": (groups.outputs(), {"kernel": ((2, 3, 2, 2, 4), keep(4))}),
    "outputs, torch dense": (groups.outputs("torch"), {"weight": ((4, 3), keep(0))}),
    "outputs, torch conv": (groups.outputs("torch"), {"weight": ((4, 2, 3, 3), keep(0))}),
    "outputs, equinox conv": (groups.outputs("equinox"), {"weight": ((4, 2, 3), keep(0))}),
    "outputs, attention": (
        groups.outputs(),
        attention(**dict.fromkeys(SPLIT, keep(1, 2)), out=keep(2)),
    ),
    "inputs, dense": (groups.inputs(), {"kernel": ((4, 3), keep(0))}),
    "inputs, conv 1-D": (groups.inputs(), {"kernel": ((3, 2, 4), keep(1))}),
    "inputs, conv 2-D": (groups.inputs(), {"kernel": ((3, 2, 2, 4), keep(2))}),
    "inputs, conv 3-D": (groups.inputs(), {"kernel": ((2, 3, 2, 2, 4), keep(3))}),
    "inputs, torch conv": (groups.inputs("torch"), {"weight": ((4, 2, 3, 3), keep(1))}),
    "inputs, attention": (groups.inputs(), attention(**dict.fromkeys(SPLIT, keep(0)), out=keep(0, 1))),
    "kernels, conv 1-D": (groups.kernels(), {"kernel": ((3, 2, 4), keep(1, 2))}),
    "kernels, conv 2-D": (groups.kernels(), {"kernel": ((3, 2, 2, 4), keep(2, 3))}),
    "kernels, conv 3-D": (groups.kernels(), {"kernel": ((2, 3, 2, 2, 4), keep(3, 4))}),
    "kernels, torch conv": (groups.kernels("torch"), {"weight": ((4, 2, 3, 3), keep(0, 1))}),
    "layers": (groups.layers(), {"a": ((4, 3), whole), "b": ((5,), whole), "c": ((), whole)}),
    "axes": (groups.axes(keep=(0, -1)), {"kernel": ((2, 4, 3), keep(0, 2))}),
    "axes, all": (groups.axes(keep=(0, 1)), {"kernel": ((2, 3), keep(0, 1))}),
    "axes, none": (groups.axes(keep=()), {"kernel": ((2, 3), whole)}),
    "axes, 1-D": (groups.axes(keep=(-1,)), {"bias": ((5,), keep(0))}),
    "blocks": (groups.blocks((2, 3)), {"kernel": ((4, 6), tiles(2, 3))}),
    "blocks, leading axes": (groups.blocks((2, 2)), {"kernel": ((3, 4, 2), tiles(2, 2))}),
    "blocks, ragged": (groups.blocks((3, 4), ragged=True), {"kernel": ((5, 6), tiles(3, 4))}),
    "blocks, larger than the leaf": (groups.blocks((9, 9), ragged=True), {"kernel": ((4, 3), tiles(9, 9))}),
    "blocks of one": (groups.blocks((1, 1)), {"kernel": ((4, 3), tiles(1, 1))}),
    "blocks, one axis": (groups.blocks((2,)), {"bias": ((4,), tiles(2)), "kernel": ((3, 4), tiles(2))}),
    "chunks": (groups.chunks(2, axis=0), {"kernel": ((6, 3), runs(2, 0))}),
    "chunks, negative axis": (groups.chunks(3, axis=-1), {"kernel": ((2, 2, 6), runs(3, -1))}),
    "chunks, ragged": (groups.chunks(4, axis=1, ragged=True), {"kernel": ((2, 6), runs(4, 1))}),
    "strided": (groups.strided(2, axis=0), {"kernel": ((6, 3), strides(2, 0))}),
    "strided, negative axis": (groups.strided(3, axis=-2), {"kernel": ((2, 6, 2), strides(3, -2))}),
    "strided, ragged": (groups.strided(4, axis=1, ragged=True), {"kernel": ((2, 7), strides(4, 1))}),
    "strided, longer than the leaf": (groups.strided(8, axis=0, ragged=True), {"b": ((3,), strides(8, 0))}),
    "size-1 axes": (
        groups.outputs(),
        {"a": ((1, 3), keep(1)), "b": ((3, 1), keep(1)), "c": ((1, 1), keep(1))},
    ),
    "size-1 blocks": (groups.blocks((1, 3)), {"kernel": ((1, 3), tiles(1, 3))}),
    "an empty leaf": (groups.inputs(), {"kernel": ((0, 3), keep(0)), "other": ((2, 3), keep(0))}),
    "an empty leaf's outputs": (groups.outputs(), {"kernel": ((0, 3), keep(1)), "other": ((2, 3), keep(1))}),
    "by path": (
        groups.by_path(
            {"conv/kernel": groups.kernels(), "**/kernel": groups.inputs(), "**": groups.layers()}
        ),
        {
            "conv/kernel": ((3, 2, 4), keep(1, 2)),
            "dense/kernel": ((4, 3), keep(0)),
            "dense/bias": ((3,), whole),
        },
    ),
}


def nested(flat):
    tree = {}
    for path, leaf in flat.items():
        *above, name = path.split("/")
        node = tree
        for step in above:
            node = node.setdefault(step, {})
        node[name] = leaf
    if "attn" in tree:  # a block is known by its projections, all of which a model has
        for name, shape in ATTENTION.items():
            tree["attn"].setdefault(name, {"kernel": jnp.zeros(shape)})
    return tree


def members(spec):
    """The elements of every group of every leaf, as (path, index)."""
    out = collections.defaultdict(list)
    for path, (shape, oracle) in spec.items():
        for index in np.ndindex(*shape):
            out[path, oracle(index, shape)].append((path, index))
    return list(out.values())


def values(spec, seed):
    """Random leaves in which about half of the groups are zero, and single zeros elsewhere."""
    rng = np.random.default_rng(seed)
    leaves = {path: rng.normal(size=shape) for path, (shape, _) in spec.items()}
    for elements in members(spec):
        killed = elements if rng.random() < 0.5 else elements[:1]
        for path, index in killed:
            leaves[path][index] = 0.0
    return leaves


def check(structure, spec, seed=0):
    leaves, every = values(spec, seed), members(spec)
    params = nested({path: jnp.asarray(leaf, jnp.float32) for path, leaf in leaves.items()})
    norms = [math.sqrt(sum(leaves[path][index] ** 2 for path, index in elements)) for elements in every]

    plain = jaxreg.group_lasso(1.0, structure, size_weights=False)
    weighted = jaxreg.group_lasso(1.0, structure)

    @jax.jit
    def measure(params):
        return jax.value_and_grad(plain)(params), weighted(params), jaxreg.sparsity(params, structure)

    (total, slopes), weighted_total, sparsity = measure(params)
    np.testing.assert_allclose(total, sum(norms), rtol=1e-5)
    expected = sum(norm * math.sqrt(len(elements)) for norm, elements in zip(norms, every, strict=True))
    np.testing.assert_allclose(weighted_total, expected, rtol=1e-5)

    # The gradient w / ||w_g|| says for each element which group it is in.
    slopes = {path: np.zeros(shape) for path, (shape, _) in spec.items()} | flattened(slopes)
    for norm, elements in zip(norms, every, strict=True):
        for path, index in elements:
            expected = leaves[path][index] / norm if norm else 0.0
            np.testing.assert_allclose(slopes[path][index], expected, rtol=1e-4, atol=1e-6)

    zero_share = sum(norm == 0 for norm in norms) / max(len(norms), 1)
    np.testing.assert_allclose(sparsity, zero_share, rtol=1e-6)


def flattened(tree):
    entries = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(str(key.key) for key in keys): np.asarray(leaf) for keys, leaf in entries}


@pytest.mark.parametrize("name", CASES)
def test_groups_are_those_of_a_loop_over_indices(name):
    check(*CASES[name])


@hypothesis.settings(max_examples=20)
@hypothesis.given(
    shape=st.sampled_from([(3,), (4, 3), (1, 5), (2, 3, 4)]),
    data=st.data(),
    seed=st.integers(0, 99),
)
def test_any_cut_of_any_axis(shape, data, seed):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = data.draw(st.integers(1, 5))
    make, oracle = data.draw(st.sampled_from([(groups.chunks, runs), (groups.strided, strides)]))
    check(make(size, axis=axis, ragged=True), {"w": (shape, oracle(size, axis))}, seed)


def test_a_leaf_with_the_name_of_a_projection_but_no_block_is_a_convolution():
    check(groups.outputs(), {"query/kernel": ((3, 2, 4), keep(2)), "other/kernel": ((3, 2, 4), keep(2))})


def test_attention_inside_modules():
    spec = {
        f"encoder/attn_0/{name}/kernel": (shape, keep(2) if name == "out" else keep(1, 2))
        for name, shape in ATTENTION.items()
    }
    check(groups.outputs(), spec)


def test_a_single_array_is_a_tree():
    w = jnp.array([[3.0, 0.0], [4.0, 0.0]])
    assert jaxreg.group_lasso(1.0, groups.outputs(), size_weights=False)(w) == 5.0
    assert jaxreg.sparsity(w, groups.outputs()) == 0.5
