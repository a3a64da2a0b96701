"""Structures against loops over indices, what they cost, and how they shard."""

import collections
import itertools
import math
import re

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxreg
from jaxreg import groups, masks

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


# Values: equality, hash, repr

EVERY = [
    ("outputs(layout='flax')", groups.outputs),
    ("outputs(layout='torch')", lambda: groups.outputs("torch")),
    ("inputs(layout='flax')", groups.inputs),
    ("kernels(layout='flax')", groups.kernels),
    ("layers()", groups.layers),
    ("axes(keep=(0, -1))", lambda: groups.axes(keep=[0, np.int64(-1)])),
    ("axes(keep=(0,))", lambda: groups.axes(keep=(0,))),
    ("blocks((2, 3))", lambda: groups.blocks([2, 3])),
    ("blocks((2, 3), ragged=True)", lambda: groups.blocks((2, 3), ragged=True)),
    ("chunks(2, axis=0)", lambda: groups.chunks(2, axis=0)),
    ("chunks(2, axis=0, ragged=True)", lambda: groups.chunks(2, axis=0, ragged=True)),
    ("strided(2, axis=0)", lambda: groups.strided(2, axis=0)),
    (
        "by_path({'a/*': layers(), '**': chunks(2, axis=1)})",
        lambda: groups.by_path({"a/*": groups.layers(), "**": groups.chunks(2, axis=1)}),
    ),
    (
        "by_path({'**': chunks(2, axis=1), 'a/*': layers()})",
        lambda: groups.by_path({"**": groups.chunks(2, axis=1), "a/*": groups.layers()}),
    ),
]


@pytest.mark.parametrize(("text", "make"), EVERY, ids=[text for text, _ in EVERY])
def test_structures_are_values_that_print_as_they_are_written(text, make):
    assert repr(make()) == text
    assert make() == make()
    assert hash(make()) == hash(make())
    assert [other for other, build in EVERY if build() == make()] == [text]


def test_other_spellings_are_equal():
    assert groups.outputs("equinox") == groups.outputs("torch")
    assert groups.axes(keep=()) == groups.layers()
    assert groups.chunks(2, 0) == groups.chunks(np.int32(2), axis=0)


def test_a_rebuilt_structure_does_not_recompile():
    traces = []

    @jax.jit
    def value(penalty, params):
        traces.append(penalty)
        return penalty(params)

    for strength in (1.0, 2.0, 3.0):
        value(jaxreg.group_lasso(strength, groups.by_path({"**": groups.blocks((2, 2))})), jnp.ones((4, 4)))
    assert len(traces) == 1


# Words

NET = {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
ATTN = {"attn": {name: {"kernel": jnp.ones(shape)} for name, shape in ATTENTION.items()}}
MISFITS = {
    "a bias": (
        groups.outputs(),
        NET,
        "The groups outputs(layout='flax') need at least 2 axes. The leaf 'dense/bias' has shape (3,). "
        "Keep it out of the penalty with mask=jaxreg.masks.min_ndim(2).",
    ),
    "a dense kernel": (
        groups.kernels(),
        {"w": jnp.ones((4, 3))},
        "The groups kernels(layout='flax') need at least 3 axes. The leaf 'w' has shape (4, 3). "
        "Keep it out of the penalty with mask=jaxreg.masks.min_ndim(3).",
    ),
    "an attention kernel": (
        groups.kernels(),
        ATTN,
        "The groups kernels(layout='flax') need spatial axes. The leaf 'attn/key/kernel' of shape (6, 2, 3) "
        "is an attention projection, which has none. Take it out of the penalty's mask.",
    ),
    "chunks": (
        groups.chunks(3, axis=-2),
        {"w": jnp.ones((4, 3))},
        "The groups chunks(3, axis=-2) need axis 0 of the leaf 'w' to be a multiple of 3. Got 4. "
        "Pass ragged=True for a smaller last group.",
    ),
    "strided": (
        groups.strided(2, axis=1),
        {"w": jnp.ones((4, 3))},
        "The groups strided(2, axis=1) need axis 1 of the leaf 'w' to be a multiple of 2. Got 3. "
        "Pass ragged=True for a smaller last group.",
    ),
    "blocks": (
        groups.blocks((2, 2)),
        {"w": jnp.ones((5, 4, 3))},
        "The groups blocks((2, 2)) need axis 2 of the leaf 'w' to be a multiple of 2. Got 3. "
        "Pass ragged=True for a smaller last group.",
    ),
    "blocks of too many axes": (
        groups.blocks((2, 2)),
        {"b": jnp.ones(4)},
        "The groups blocks((2, 2)) need at least 2 axes. The leaf 'b' has shape (4,). "
        "Keep it out of the penalty with mask=jaxreg.masks.min_ndim(2).",
    ),
    "an axis that is not there": (
        groups.axes(keep=(2,)),
        {"w": jnp.ones((4, 3))},
        "The groups axes(keep=(2,)) need at least 3 axes. The leaf 'w' has shape (4, 3).",
    ),
    "a negative axis that is not there": (
        groups.chunks(2, axis=-3),
        {"w": jnp.ones((4, 3))},
        "The groups chunks(2, axis=-3) need at least 3 axes. The leaf 'w' has shape (4, 3).",
    ),
    "an axis named twice": (groups.axes(keep=(0, -2)), {"w": jnp.ones((4, 3))}, "'w'"),
    "a scalar": (groups.chunks(2, axis=0), {"s": jnp.ones(())}, "The leaf 's' has shape ()."),
    "an uncovered leaf": (
        groups.by_path({"dense/kernel": groups.outputs()}),
        NET,
        "The groups by_path({'dense/kernel': outputs(layout='flax')}) have no pattern for the leaf "
        "'dense/bias'. Add one, or take the leaf out of the penalty's mask.",
    ),
    "a pattern that hits nothing": (
        groups.by_path({"dens/*": groups.layers(), "**": groups.layers()}),
        NET,
        "The pattern 'dens/*' of mask path('dens/*') matches no leaf. The nearest are: ",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits_are_named(name):
    structure, params, words = MISFITS[name]
    uses = (
        lambda: jaxreg.group_lasso(1.0, structure)(params),
        lambda: jaxreg.group_lasso(1.0, structure).prox(params, 1.0),
        lambda: jax.jit(jaxreg.group_lasso(1.0, structure))(params),
        lambda: jaxreg.sparsity(params, structure),
    )
    for use in uses:
        with pytest.raises(ValueError, match=re.escape(words)):
            use()


def test_the_mask_that_the_error_names_is_the_cure():
    penalty = jaxreg.group_lasso(1.0, groups.outputs(), size_weights=False, mask=masks.min_ndim(2))
    assert penalty(NET) == 6.0


BAD = [
    (
        lambda: groups.outputs("keras"),
        ValueError,
        "The 'layout' parameter of groups.outputs must be one of 'flax', 'torch', 'equinox'. Got 'keras'.",
    ),
    (lambda: groups.inputs(None), ValueError, "The 'layout' parameter of groups.inputs must be one of"),
    (lambda: groups.kernels("nhwc"), ValueError, "The 'layout' parameter of groups.kernels must be one of"),
    (
        lambda: groups.axes(keep=1),
        TypeError,
        "The 'keep' parameter of groups.axes must be a sequence of integers. Got 1.",
    ),
    (
        lambda: groups.axes(keep=(0.5,)),
        TypeError,
        "The 'keep' parameter of groups.axes must be an integer. Got 0.5.",
    ),
    (
        lambda: groups.blocks("22"),
        TypeError,
        "The 'shape' parameter of groups.blocks must be a sequence of integers. Got '22'.",
    ),
    (
        lambda: groups.blocks(()),
        ValueError,
        "The 'shape' parameter of groups.blocks must have at least one length. Got ().",
    ),
    (
        lambda: groups.blocks((2, 0)),
        ValueError,
        "The 'shape' parameter of groups.blocks must be at least 1. Got 0.",
    ),
    (
        lambda: groups.chunks(0, axis=0),
        ValueError,
        "The 'size' parameter of groups.chunks must be at least 1. Got 0.",
    ),
    (
        lambda: groups.chunks(True, axis=0),
        TypeError,
        "The 'size' parameter of groups.chunks must be an integer. Got True.",
    ),
    (
        lambda: groups.strided(-1, axis=0),
        ValueError,
        "The 'stride' parameter of groups.strided must be at least 1. Got -1.",
    ),
    (
        lambda: groups.strided(2, axis="0"),
        TypeError,
        "The 'axis' parameter of groups.strided must be an integer. Got '0'.",
    ),
    (
        lambda: groups.by_path({}),
        TypeError,
        "The 'table' parameter of groups.by_path must be a dict of patterns. Got {}.",
    ),
    (
        lambda: groups.by_path({"**": "outputs"}),
        TypeError,
        "The 'table['**']' parameter of groups.by_path must be a structure from jaxreg.groups, such as "
        "jaxreg.groups.outputs(). Got 'outputs'.",
    ),
    (
        lambda: groups.by_path({1: groups.layers()}),
        TypeError,
        "The patterns of groups.by_path must be strings. Got 1.",
    ),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD)
def test_bad_arguments(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


# Cost: nothing of the size of groups times elements


def sizes(jaxpr):
    """Elements of every intermediate result of a program, sub-programs included."""
    for equation in jaxpr.eqns:
        yield from (math.prod(out.aval.shape) for out in equation.outvars)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


LARGE = [
    groups.outputs(),
    groups.inputs(),
    groups.layers(),
    groups.blocks((4, 4)),
    groups.blocks((60, 50), ragged=True),
    groups.chunks(8, axis=0),
    groups.strided(32, axis=1),
    groups.by_path({"**": groups.outputs()}),
]


@pytest.mark.parametrize("structure", LARGE, ids=str)
def test_no_mask_of_groups_times_elements_is_built(structure):
    shape = (512, 256)
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    programs = {
        "value": (lambda x: jaxreg.group_lasso(1.0, structure)(x), leaf),
        "gradient": (jax.grad(lambda x: jaxreg.group_lasso(1.0, structure)(x)), leaf),
        "prox": (lambda x: jaxreg.sparse_group_lasso(1.0, structure, 0.5).prox(x, 0.1), leaf),
        "weighted prox": (lambda x, s: jaxreg.group_lasso(1.0, structure).prox(x, s), leaf, leaf),
        "optimality": (lambda x, g: jaxreg.group_lasso(1.0, structure).optimality(x, g), leaf, leaf),
        "sparsity": (lambda x: jaxreg.sparsity(x, structure), leaf),
    }
    for name, (program, *given) in programs.items():
        found = list(sizes(jax.make_jaxpr(program)(*given).jaxpr))
        assert len(found) > 3, name
        assert max(found) <= 1.5 * math.prod(shape), name


def test_the_walk_sees_inside_sub_programs():
    def hidden(x):
        return jax.lax.fori_loop(0, 2, lambda _, y: jax.jit(lambda z: jnp.outer(z, z)[0])(y), x)

    assert max(sizes(jax.make_jaxpr(hidden)(jnp.ones(8)).jaxpr)) == 64


# Sharding: reductions of group-sized vectors, and no parameter is gathered

MESH_AXIS = "x"
SHARDED = [
    (structure, shape, axis)
    for structure, shape in (
        (groups.outputs(), (64, 32)),
        (groups.inputs(), (64, 32)),
        (groups.layers(), (64, 32)),
        (groups.axes(keep=(0, -1)), (8, 24, 16)),
        (None, (64, 32)),
    )
    for axis in range(len(shape))
]


def reduced_sizes(text):
    """Elements of each array that the compiled program reduces over devices."""
    lines = [line for line in text.splitlines() if re.search(r"\ball-reduce(-start)?\(", line)]
    shapes = [re.findall(r"\w+\[([\d,]*)\]", line.split(" all-reduce")[0]) for line in lines]
    return [math.prod(int(n) for n in shape.split(",") if n) for shape in itertools.chain(*shapes)]


@pytest.mark.parametrize(("structure", "shape", "axis"), SHARDED, ids=str)
def test_sharded_leaves_stay_sharded_and_are_never_gathered(structure, shape, axis):
    assert jax.device_count() == 8
    spec = [None] * len(shape)
    spec[axis] = MESH_AXIS
    sharding = NamedSharding(Mesh(np.array(jax.devices()), (MESH_AXIS,)), P(*spec))
    host = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    leaf = jax.device_put(host, sharding)
    penalty = jaxreg.l1(0.2) if structure is None else jaxreg.group_lasso(0.2, structure)
    n_groups = 1
    if structure is not None:
        ones = jaxreg.group_lasso(1.0, structure, size_weights=False)(jnp.ones(shape))
        n_groups = round(float(ones) ** 2 / math.prod(shape))  # sum sqrt(|g|) = sqrt(groups * elements)

    @jax.jit
    def program(x, steps):
        return penalty.prox(x, 0.5), penalty.prox(x, steps), jax.grad(penalty)(x), penalty(x)

    text = program.lower(leaf, jnp.abs(leaf)).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in text
    assert all(size <= n_groups for size in reduced_sizes(text))
    out = program(leaf, jnp.abs(leaf))
    expected = program(jnp.asarray(host), jnp.abs(host))
    chex.assert_trees_all_close(jax.device_get(out), jax.device_get(expected), rtol=1e-5, atol=1e-6)
    assert all(x.sharding.is_equivalent_to(sharding, leaf.ndim) for x in out[:3])


def test_reductions_over_devices_are_found():
    mesh = Mesh(np.array(jax.devices()), (MESH_AXIS,))
    leaf = jax.device_put(jnp.ones((64, 32)), NamedSharding(mesh, P(MESH_AXIS)))
    text = jax.jit(lambda x: x.sum(0)).lower(leaf).compile().as_text()
    assert reduced_sizes(text) == [32]
