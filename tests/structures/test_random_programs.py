"""Random networks: gradients find no forgotten member.

``STRUCTURE_PROGRAMS=500 pytest tests/structures/test_random_programs.py`` runs that many.
"""

import os

import pytest
from structures.oracles import Run, generic_points, missing_from
from structures.random_programs import Program

from jaxreg import structures

PROGRAMS = int(os.environ.get("STRUCTURE_PROGRAMS", "30"))


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_random_programs(seed):
    made = Program(seed).made()
    graph = structures.trace(made.apply, made.params, *made.inputs)
    assert graph.groups
    run = Run(made.apply, made.params, made.inputs, lambda out: out)
    points = generic_points(made)
    for group in graph.groups:
        assert missing_from(group, group.size // 2, points, run, exact=False) == []
