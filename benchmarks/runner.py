"""Measure programs in turn, round by round, and reduce what was measured to medians and ratios."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

Sample = Mapping[str, float]
"""Seconds by column; the first column is the one whose ratio is reported."""

SHORTEST_SAMPLE = 0.02  # seconds; faster programs are called several times per sample
QUICK_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Program:
    """One program of a comparison.

    Args:
        name: its row in the table.
        measure: runs it once and returns what that took.
        facts: what is known of it without a clock, by column.
        limit: the ratio that it is required to stay below, if any.
    """

    name: str
    measure: Callable[[], Sample]
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limit: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Programs that do the same or nearly the same; ratios are to the first."""

    title: str
    programs: Sequence[Program]
    rounds: int
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    program: Program
    medians: Mapping[str, float]
    ratio: float
    spread: tuple[float, float]  # quartiles of the ratio over rounds


@dataclasses.dataclass(frozen=True)
class Finished:
    comparison: Comparison
    rounds: int
    rows: Sequence[Row]
    is_quick: bool  # too short to hold a program to its limit


def run(comparison: Comparison, rounds: int | None = None, *, quick: bool = False) -> Finished:
    """Warm every program up, then measure them in turn."""
    rounds = rounds or (min(QUICK_ROUNDS, comparison.rounds) if quick else comparison.rounds)
    programs = list(comparison.programs)
    for program in programs:
        program.measure()
    samples: list[list[Sample]] = [[] for _ in programs]
    for turn in progress(range(rounds), comparison.title):
        # Each round starts with another program, so that none always follows the same one.
        for position in range(len(programs)):
            index = (position + turn) % len(programs)
            samples[index].append(programs[index].measure())
    pairs = zip(programs, samples, strict=True)
    return Finished(comparison, rounds, [_row(program, own, samples[0]) for program, own in pairs], quick)


def _row(program: Program, own: Sequence[Sample], first: Sequence[Sample]) -> Row:
    column = next(iter(own[0]))
    # Ratios within a round, then their median: what slows a whole round cancels.
    ratios = [mine[column] / its[column] for mine, its in zip(own, first, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    medians = {name: statistics.median(sample[name] for sample in own) for name in own[0]}
    return Row(program, medians, statistics.median(ratios), (quartiles[0], quartiles[2]))


class Repeated:
    """Measure a function of no arguments that returns arrays, over as many calls as a clock needs."""

    def __init__(self, function: Callable[[], Any]):
        self.function = function
        self.calls = 0

    def __call__(self) -> Sample:
        if not self.calls:
            jax.block_until_ready(self.function())  # compiles, allocates
            self.calls = max(1, math.ceil(SHORTEST_SAMPLE / self._seconds(1)))
        return {"time": self._seconds(self.calls)}

    def _seconds(self, calls: int) -> float:
        start = time.perf_counter()
        out = None
        for _ in range(calls):
            out = self.function()
        jax.block_until_ready(out)
        return (time.perf_counter() - start) / calls


class Step:
    """A compiled step ``(carry, *rest) -> carry`` whose carry is donated from call to call."""

    def __init__(self, step: Callable[..., Any], start: Callable[[], Any], *rest: Any):
        shapes = jax.eval_shape(start)
        self.compiled = jax.jit(step, donate_argnums=0).lower(shapes, *rest).compile()
        self.start, self.rest = start, rest
        self.carry: Any = None

    def __call__(self) -> Any:
        if self.carry is None:
            # Copied, because two equal constants may be one buffer, which cannot be donated twice.
            self.carry = jax.tree.map(lambda leaf: leaf.copy(), self.start())
        self.carry = self.compiled(self.carry, *self.rest)
        return self.carry

    def facts(self) -> dict[str, str]:
        return {"temporaries": temporaries(self.compiled)}


def temporaries(compiled: Any) -> str:
    """Size of the buffers a compiled program needs beside its arguments and results."""
    try:
        size = compiled.memory_analysis().temp_size_in_bytes
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return "unknown"  # not every backend tells
    return readable_bytes(size)


def readable_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def progress(items: Iterable[int], title: str) -> Iterable[int]:
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=title, leave=False, disable=None)
