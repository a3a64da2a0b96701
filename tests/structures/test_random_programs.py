"""Random networks: gradients find no forgotten member, and what is removed changes no output.

``STRUCTURE_PROGRAMS=500 pytest tests/structures/test_random_programs.py`` runs that many.
"""

import functools
import os

import numpy as np
import pytest
from structures.oracles import Outputs, Run, dead_units, differ, generic_points, missing_from, with_zeros
from structures.random_programs import Program

import jaxreg
from jaxreg import structures

PROGRAMS = int(os.environ.get("STRUCTURE_PROGRAMS", "30"))


@functools.cache
def shrunk(seed):
    """A program, the units whose producers were made zero, the parameters then, and what is left."""
    made = Program(seed).made()
    graph = structures.trace(made.apply, made.params, *made.inputs)
    chosen = dead_units(graph.groups, seed)
    params = with_zeros(made.params, chosen)
    return made, graph, chosen, params, jaxreg.compact(graph, params)


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_random_programs(seed):
    made, graph, _, params, small = shrunk(seed)
    run = Run(made.apply, made.params, made.inputs, lambda out: out)
    points = generic_points(made)
    for group in graph.groups:
        assert missing_from(group, group.size // 2, points, run, exact=False) == []

    expected, _ = run(params)
    found = Outputs(small.apply, small.params, made.inputs, lambda out: out)(small.params)
    assert differ(expected, found) < 1e-5 * max(1.0, np.abs(expected[0]).max())


def test_most_dead_units_of_random_programs_are_removed():
    """Nothing would be wrong with a compact that removes nothing, but for this."""
    dead = gone = 0
    for seed in range(PROGRAMS):
        _, graph, chosen, _, small = shrunk(seed)
        dead += sum(len(units) for _, units in chosen)
        gone += sum(group.size - len(kept) for group, kept in zip(graph.groups, small.kept, strict=True))
    assert gone > 0.75 * dead > 50
