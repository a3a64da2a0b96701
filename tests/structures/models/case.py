"""A model of the zoo: how to make it, and its coupled groups, written by hand.

A member is written ``path@axis`` where unit j is position j; ``path@axis+4`` where unit j is position 4 + j;
``path@axis(3,2*,4)`` where the axis is a row-major product and the unit is an index of the starred factor.
"""

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Tree = Any
Positions = tuple[tuple[int, ...], ...]
PRODUCES, CONSUMES = "produces", "consumes"


class Member(NamedTuple):
    """Unit j of a group occupies the positions ``indices[j]`` of one axis of one parameter."""

    path: str
    axis: int
    role: str
    indices: Positions


@dataclasses.dataclass(frozen=True)
class Unit:
    """One group of coupled units, as ``structures.trace`` should find it."""

    size: int
    members: frozenset[Member]
    refused: str | None
    """What a refusal to remove a unit whose producers are zero must name; None: removal is exact."""

    def names(self, reason: str) -> bool:
        return re.search(self.refused or "", reason) is not None


def unit(size: int, makes: str = "", reads: str = "", *, refused: str | None = None) -> Unit:
    produced = [_member(text, PRODUCES, size) for text in makes.split()]
    consumed = [_member(text, CONSUMES, size) for text in reads.split()]
    return Unit(size, frozenset(produced + consumed), refused)


def _member(text: str, role: str, size: int) -> Member:
    matched = re.fullmatch(r"(?P<path>[^@]+)@(?P<axis>\d+)(?P<factors>\([\d,*]+\))?(\+(?P<start>\d+))?", text)
    assert matched, text
    factors = (matched["factors"] or f"({size}*)")[1:-1].split(",")
    [starred] = [place for place, factor in enumerate(factors) if factor.endswith("*")]
    shape = [int(factor.rstrip("*")) for factor in factors]
    assert shape[starred] == size, text
    positions = np.arange(np.prod(shape)).reshape(shape) + int(matched["start"] or 0)
    rows = np.moveaxis(positions, starred, 0).reshape(size, -1)
    indices = tuple(tuple(sorted(row)) for row in rows.tolist())
    return Member(matched["path"], int(matched["axis"]), role, indices)


@dataclasses.dataclass(frozen=True)
class Made:
    """A function of parameters and inputs, both filled with seeded random numbers."""

    apply: Callable[..., Any]
    params: Tree
    inputs: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    name: str
    make: Callable[[], Made]
    groups: tuple[Unit, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further arguments of ``structures.trace``."""
    output: Callable[[Any], Any] = lambda out: out
    """The part of what the model returns that must not change."""

    def __str__(self) -> str:
        return self.name


def filled(shapes: Tree, seed: int = 0) -> Tree:
    """Random parameters of the given shapes at a generic point: no zero, no two alike, variances positive."""
    entries, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    leaves = []
    for keys, leaf in entries:
        path = jax.tree_util.keystr(keys)
        names = re.findall(r"\w+", path)
        rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
        shape = np.shape(leaf)
        if {"var", "scale"} & set(names):
            array = rng.uniform(0.5, 1.5, size=shape)
        else:
            array = rng.normal(size=shape) / np.sqrt(max(np.prod(shape[:-1]), 5))
            if "bias" in names:  # above zero, so that few rectified units are silent everywhere
                array += 0.5
        leaves.append(array.astype(np.float32))
    return jax.device_put(jax.tree.unflatten(treedef, leaves))


def shape(*lengths: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(lengths, np.float32)


def dense(inputs: int, outputs: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {"kernel": shape(inputs, outputs), "bias": shape(outputs)}


def draw(*lengths: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *lengths]).normal(size=lengths).astype(np.float32)


def tokens(*lengths: int, vocabulary: int) -> np.ndarray:
    return np.random.default_rng(2).integers(vocabulary, size=lengths, dtype=np.int32)
