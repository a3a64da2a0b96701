"""The algebra of axes: which positions of which axes live and die together.

Every axis of every array of a program is a dimension. A *leaf* has units that can be removed one by
one; a *product* is a row-major merge of axes, as in H*W*C; a *sum* is a concatenation. Unifying two
dimensions refines both to a common structure and joins their leaves. What cannot be aligned is pinned:
a missing tie would be unsound, a pin too many only loses freedom.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

LEAF, PRODUCT, SUM = "leaf", "product", "sum"

Reason = Callable[[], str]
"""Why something is pinned, spelt out only where it is."""


class Dimension:
    """One axis, or a part of one. Compare with ``is``, after :func:`find`."""

    __slots__ = ("joined", "kind", "parts", "reason", "size")

    def __init__(self, size: int, kind: str = LEAF, parts: tuple["Dimension", ...] = ()) -> None:
        self.size = size
        self.kind = kind
        self.parts = parts
        self.joined: Dimension | None = None
        self.reason: str | None = None

    def __repr__(self) -> str:
        node = find(self)
        if node.kind == LEAF:
            return f"{node.size}!" if node.reason else f"{node.size}"
        return "(" + {PRODUCT: "*", SUM: "+"}[node.kind].join(map(repr, node.parts)) + ")"


def leaf(size: int) -> Dimension:
    return Dimension(int(size))


def pinned(size: int, reason: Reason) -> Dimension:
    dimension = leaf(size)
    pin(dimension, reason)
    return dimension


def product(parts: Sequence[Dimension]) -> Dimension:
    """The axes merged into one, the last one running fastest."""
    factors = [factor for part in parts for factor in _factors(part)]
    # An axis of length 1 has no unit to lose, so that it need not be remembered.
    kept = [factor for factor in factors if factor.size != 1] or factors[:1]
    if len(kept) == 1:
        return kept[0]
    return Dimension(math.prod(factor.size for factor in kept), PRODUCT, tuple(kept))


def concatenation(parts: Sequence[Dimension]) -> Dimension:
    """The axes one after another."""
    terms = [term for part in parts for term in _terms(part)]
    kept = [term for term in terms if term.size] or terms[:1]
    if len(kept) == 1:
        return kept[0]
    return Dimension(sum(term.size for term in kept), SUM, tuple(kept))


def find(dimension: Dimension) -> Dimension:
    """The dimension that this one was joined with."""
    root = dimension
    while root.joined is not None:
        root = root.joined
    while dimension.joined is not None and dimension.joined is not root:
        dimension.joined, dimension = root, dimension.joined
    return root


def unify(a: Dimension, b: Dimension, reason: Reason) -> None:
    """Make two dimensions of one length one, position by position.

    ``reason`` is given to what has to be pinned because the two cannot be aligned.
    """
    a, b = find(a), find(b)
    if a is b:
        return
    if a.size != b.size:
        raise ValueError(f"Two axes of lengths {a.size} and {b.size} cannot be one: {reason()}")
    if LEAF not in (a.kind, b.kind):
        if a.kind == b.kind == PRODUCT:
            aligned = _match_products(_factors(a), _factors(b), reason)
        elif a.kind == b.kind == SUM:
            aligned = _match_sums(_terms(a), _terms(b), reason)
        else:
            whole, parts = (a, b) if a.kind == PRODUCT else (b, a)
            aligned = _match_mixed(_factors(whole), _terms(parts), reason)
        if not aligned:
            pin(a, reason)
            pin(b, reason)
            return
        a, b = find(a), find(b)
        if a is not b:
            a.joined = b
        return
    if a.kind != LEAF:
        a, b = b, a
    a.joined = b
    if a.reason is not None:
        why = a.reason
        pin(b, lambda: why)


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of old and new axes that hold the same positions; axes of length 1 aside."""
    left = [axis for axis, size in enumerate(old) if size != 1]
    right = [axis for axis, size in enumerate(new) if size != 1]
    found = []
    while left:
        olds, news = [left.pop(0)], [right.pop(0)]
        ours, theirs = old[olds[0]], new[news[0]]
        while ours != theirs:
            if ours < theirs:
                olds.append(left.pop(0))
                ours *= old[olds[-1]]
            else:
                news.append(right.pop(0))
                theirs *= new[news[-1]]
        found.append((olds, news))
    return found


def cut(dimension: Dimension, sizes: Sequence[int], reason: Reason) -> list[Dimension]:
    """The dimension as a concatenation of parts of these sizes."""
    parts = [leaf(size) for size in sizes]
    unify(dimension, concatenation(parts), reason)
    return parts


def split(dimension: Dimension, sizes: Sequence[int], reason: Reason) -> list[Dimension]:
    """The dimension as a row-major merge of axes of these sizes."""
    factors = [leaf(size) for size in sizes]
    unify(dimension, product(factors), reason)
    return factors


def pin(dimension: Dimension, reason: Reason) -> None:
    """Forbid the removal of any unit of it."""
    for unit in leaves(dimension):
        if unit.reason is None:
            unit.reason = reason()


def leaves(dimension: Dimension) -> Iterator[Dimension]:
    node = find(dimension)
    if node.kind == LEAF:
        yield node
    else:
        for part in node.parts:
            yield from leaves(part)


def positions(dimension: Dimension) -> list[tuple[Dimension, int, tuple[int, ...]]]:
    """Where the leaves lie along the axis: (leaf, stride, bases).

    Unit j of the leaf occupies the positions ``base + j * stride``. A leaf that occurs
    several times is listed as often.
    """
    node = find(dimension)
    if node.kind == LEAF:
        return [(node, 1, (0,))]
    found = []
    if node.kind == SUM:
        start = 0
        for part in node.parts:
            found += [(unit, step, tuple(start + b for b in bases)) for unit, step, bases in positions(part)]
            start += part.size
        return found
    factors = _factors(node)
    for number, factor in enumerate(factors):
        before = math.prod(f.size for f in factors[:number])
        after = math.prod(f.size for f in factors[number + 1 :])
        for unit, step, bases in positions(factor):
            spread = itertools.product(range(before), bases, range(after))
            found.append(
                (unit, step * after, tuple(i * factor.size * after + b * after + k for i, b, k in spread))
            )
    return found


def _factors(dimension: Dimension) -> list[Dimension]:
    node = find(dimension)
    if node.kind != PRODUCT:
        return [node]
    return [factor for part in node.parts for factor in _factors(part)]


def _terms(dimension: Dimension) -> list[Dimension]:
    node = find(dimension)
    if node.kind != SUM:
        return [node]
    return [term for part in node.parts for term in _terms(part)]


def _match_products(ours: list[Dimension], theirs: list[Dimension], reason: Reason) -> bool:
    """Refine two merges; runs of axes whose boundaries do not nest are pinned."""
    for olds, news in blocks([d.size for d in ours], [d.size for d in theirs]):
        left, right = [ours[number] for number in olds], [theirs[number] for number in news]
        if not _nest(left, right, reason):
            for dimension in left + right:
                pin(dimension, reason)
    return True


def _nest(ours: list[Dimension], theirs: list[Dimension], reason: Reason) -> bool:
    left, right = list(ours), list(theirs)
    while left and right:
        a, b = find(left.pop(0)), find(right.pop(0))
        if a.size < b.size:
            a, b, left, right = b, a, right, left
        if a.size % b.size:
            return False
        if a.size > b.size:
            rest = leaf(a.size // b.size)
            unify(a, product([b, rest]), reason)
            left.insert(0, rest)
        else:
            unify(a, b, reason)
    return True


def _match_sums(ours: list[Dimension], theirs: list[Dimension], reason: Reason) -> bool:
    """Refine two concatenations from the first position on."""
    left, right = list(ours), list(theirs)
    while left and right:
        a, b = find(left.pop(0)), find(right.pop(0))
        if a.size < b.size:
            a, b, left, right = b, a, right, left
        if a.size > b.size:
            rest = leaf(a.size - b.size)
            unify(a, concatenation([b, rest]), reason)
            left.insert(0, rest)
        else:
            unify(a, b, reason)
    return True


def _match_mixed(factors: list[Dimension], terms: list[Dimension], reason: Reason) -> bool:
    """Cut the slow axes of a merge where the terms of a concatenation end; they share the fast axes."""
    for number in range(1, len(factors)):
        fast = math.prod(factor.size for factor in factors[number:])
        if fast and not any(term.size % fast for term in terms):
            heads = [leaf(term.size // fast) for term in terms]
            unify(product(factors[:number]), concatenation(heads), reason)
            for term, head in zip(terms, heads, strict=True):
                unify(term, product([head, *factors[number:]]), reason)
            return True
    return False
