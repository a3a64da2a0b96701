"""Structures as values: equality, hash, how they print, and what they refuse."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg import groups, masks

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
SPLIT, MERGE = {"kernel": jnp.ones((6, 2, 3))}, {"kernel": jnp.ones((2, 3, 6))}
ATTN = {"attn": {"query": SPLIT, "key": SPLIT, "value": SPLIT, "out": MERGE}}
MISFITS = {
    "a bias": (
        groups.outputs(),
        NET,
        "The groups outputs(layout='flax') need at least 2 axes. The leaf 'dense/bias' has shape (3,). "
        "Keep it out of the penalty with mask=jaxreg.masks.weights.",
    ),
    "a dense kernel": (
        groups.kernels(),
        {"w": jnp.ones((4, 3))},
        "The groups kernels(layout='flax') need at least 3 axes. The leaf 'w' has shape (4, 3). "
        "Keep it out of the penalty with mask=jaxreg.masks.weights & jaxreg.masks.min_ndim(3).",
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
        "Keep it out of the penalty with mask=jaxreg.masks.weights.",
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
