"""Dead units of every model are removed, and the outputs stay what they were."""

import jax
import numpy as np
import pytest
from structures.models import CASES
from structures.oracles import (
    Outputs,
    dead_units,
    differ,
    golden,
    graph_of,
    leaves_by_path,
    made_of,
    with_zeros,
    without,
)

import jaxreg

FOLDED = {"sigmoid_before_a_bias": ["1/bias"]}
"""Biases that take up the constants of the removed units."""
EXACT = {case.name: [group for group in case.groups if group.refused is None] for case in CASES}

every_case = pytest.mark.parametrize("case", [case for case in CASES if case.groups], ids=str)


@every_case
def test_dead_units_go_and_the_outputs_stay(case):
    made, graph = made_of(case), graph_of(case)
    chosen = dead_units(graph.groups)
    params = with_zeros(made.params, chosen)
    small = jaxreg.compact(graph, params)

    gone = [(group, units) for group, units in chosen if golden(case, group).refused is None]
    expected = without(leaves_by_path(params), gone)
    found = leaves_by_path(small.params)
    assert {path: leaf.shape for path, leaf in found.items()} == {
        path: leaf.shape for path, leaf in expected.items()
    }
    assert small.sizes == {path: leaf.shape for path, leaf in found.items()}
    for path, leaf in expected.items():
        if path not in FOLDED.get(case.name, []):
            assert found[path].tobytes() == leaf.tobytes()

    with_them = Outputs(made.apply, params, made.inputs, case.output)
    without_them = Outputs(small.apply, small.params, made.inputs, case.output)
    assert differ(with_them(params), without_them(small.params)) < 1e-5
    assert np.max(np.abs(with_them(params)[0] - with_them(made.params)[0])) > 1e-2  # the zeros did matter


@every_case
def test_a_refusal_names_its_reason(case):
    """Units whose producers are zero although that is not enough stay, and it is said why."""
    made, graph = made_of(case), graph_of(case)
    for number, group in enumerate(graph.groups):
        small = jaxreg.compact(graph, with_zeros(made.params, [(group, [0])]))
        refused = {refusal.group: refusal for refusal in small.refused}
        if golden(case, group).refused is None:
            assert not refused
            assert small.kept[number].tolist() == list(range(1, group.size))
        else:
            assert refused[number].units == (0,)
            assert small.kept[number].tolist() == list(range(group.size))
            assert golden(case, group).names(refused[number].reason), refused[number].reason
            assert refused[number].reason in str(refused[number])


@every_case
def test_units_that_live_stay(case):
    made, graph = made_of(case), graph_of(case)
    small = jaxreg.compact(graph, made.params)
    assert small.refused == ()
    for path, leaf in leaves_by_path(made.params).items():
        assert leaves_by_path(small.params)[path].tobytes() == leaf.tobytes()
    assert small.report.after == small.report.before
    assert small.report.before.parameters == sum(leaf.size for leaf in jax.tree.leaves(made.params))
