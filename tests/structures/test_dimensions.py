"""The algebra of axes, against arrays of labels."""

import itertools

import numpy as np
import pytest

from jaxreg.structures.dimensions import (
    concatenation,
    cut,
    find,
    leaf,
    leaves,
    pin,
    positions,
    product,
    split,
    unify,
)


def reason():
    return "misaligned"


def units(dimension, only_free=False):
    """The set of positions of every unit."""
    found = {}
    for unit, stride, bases in positions(dimension):
        for base, j in itertools.product(bases, range(unit.size)):
            if unit.reason is None or not only_free:
                found.setdefault((id(unit), j), set()).add(base + j * stride)
    return found


def free(*dimensions):
    return {unit for dimension in dimensions for unit in leaves(dimension) if unit.reason is None}


def test_units_of_a_merge_lie_where_numpy_puts_them():
    a, b, c = leaf(2), leaf(3), leaf(4)
    grid = np.arange(24).reshape(2, 3, 4)
    for unit, stride, bases in positions(product([a, b, c])):
        axis = [a, b, c].index(unit)
        expected = np.moveaxis(grid, axis, 0).reshape(unit.size, -1)
        found = np.asarray(bases)[None] + stride * np.arange(unit.size)[:, None]
        assert np.array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))


def test_units_of_a_concatenation_follow_each_other():
    a, b = leaf(2), leaf(3)
    found = {unit: (stride, bases) for unit, stride, bases in positions(concatenation([a, b, a]))[1:]}
    assert found == {b: (1, (2,)), a: (1, (5,))}
    assert positions(concatenation([a, b, a]))[0] == (a, 1, (0,))


def test_axes_of_length_one_and_empty_parts_leave_no_trace():
    a = leaf(5)
    assert product([leaf(1), a, leaf(1)]) is a
    assert concatenation([leaf(0), a, leaf(0)]) is a
    assert product([leaf(1), leaf(1)]).size == 1


def test_joined_leaves_are_one_and_a_pin_spreads():
    a, b, c = leaf(4), leaf(4), leaf(4)
    unify(a, b, reason)
    unify(b, c, reason)
    assert find(a) is find(c)
    pin(a, lambda: "an input")
    assert find(c).reason == "an input"
    d = leaf(4)
    unify(d, c, reason)
    assert find(d).reason == "an input"


def test_a_pinned_leaf_that_is_cut_stays_pinned():
    a = leaf(6)
    pin(a, lambda: "an output")
    parts = cut(a, [2, 4], reason)
    assert [find(part).reason for part in parts] == ["an output", "an output"]


def random_dimension(rng, size, depth=2):
    kind = rng.integers(3) if depth else 0
    if kind == 1:
        divisors = [n for n in range(2, size) if size % n == 0]
        if divisors:
            first = int(rng.choice(divisors))
            parts = [random_dimension(rng, n, depth - 1) for n in (first, size // first)]
            return product(parts)
    if kind == 2 and size > 1:
        first = int(rng.integers(1, size))
        return concatenation([random_dimension(rng, n, depth - 1) for n in (first, size - first)])
    return leaf(size)


@pytest.mark.parametrize("seed", range(60))
def test_unified_dimensions_lose_the_same_positions_and_only_whole_units(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.choice([6, 8, 12, 24]))
    a, b = (random_dimension(rng, size) for _ in range(2))
    before = [units(a), units(b)]
    unify(a, b, reason)
    assert units(a, only_free=True) == units(b, only_free=True)
    for old, dimension in zip(before, (a, b), strict=True):
        for places in units(dimension, only_free=True).values():
            assert set().union(*(mine for mine in old.values() if mine <= places)) == places


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: (product([leaf(2), leaf(6)]), product([leaf(4), leaf(3)])), [2, 2, 3]),
        (lambda: (concatenation([leaf(5), leaf(7)]), concatenation([leaf(4), leaf(8)])), [4, 1, 7]),
        (lambda: (product([leaf(3), leaf(4)]), concatenation([leaf(4), leaf(8)])), [2, 4]),
        (lambda: (leaf(12), product([leaf(3), leaf(4)])), [3, 4]),
    ],
    ids=["merges", "concatenations", "fused projection", "leaf"],
)
def test_two_structures_are_refined_to_a_common_one(make, expected):
    a, b = make()
    unify(a, b, reason)
    assert find(a) is find(b)
    assert sorted(unit.size for unit in free(a)) == sorted(expected)


def test_splitting_a_concatenation_ties_what_lies_inside_of_its_parts():
    query, key = leaf(6), leaf(6)
    fused = concatenation([query, key])
    split(fused, [2, 6], reason)
    assert find(query) is find(key)


def test_what_does_not_align_is_pinned_with_its_reason():
    left, right = product([leaf(2), leaf(3), leaf(5)]), product([leaf(3), leaf(2), leaf(5)])
    unify(left, right, reason)
    assert {unit.reason for unit in [*leaves(left), *leaves(right)] if unit.size != 5} == {"misaligned"}
    assert {unit.size for unit in free(left, right)} == {5}  # what they share is still free


def test_axes_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="lengths 2 and 3 cannot be one: misaligned"):
        unify(leaf(2), leaf(3), reason)
