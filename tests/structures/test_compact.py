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
    prepared,
    with_zeros,
    without,
)

import jaxreg

FOLDED = {"sigmoid_before_a_bias": ["1/bias"]}
"""Biases that take up the constants of the removed units."""

every_case = pytest.mark.parametrize("case", [case for case in CASES if case.groups], ids=str)


@every_case
def test_dead_units_go_and_the_outputs_stay(case):
    """Units whose producers are zero although that is not enough stay, and it is said why."""
    (made, run), graph = prepared(case), graph_of(case)
    chosen = dead_units(graph.groups)
    params = with_zeros(made.params, chosen)
    small = jaxreg.compact(graph, params)

    stay = {number for number, group in enumerate(graph.groups) if golden(case, group).refused is not None}
    assert {refusal.group for refusal in small.refused} == stay
    for refusal in small.refused:
        group, units = chosen[refusal.group]
        assert set(refusal.units) <= set(units)
        assert golden(case, group).names(refusal.reason), refusal.reason
        assert refusal.reason in str(refusal)

    expected = without(leaves_by_path(params), [pair for n, pair in enumerate(chosen) if n not in stay])
    found = leaves_by_path(small.params)
    shapes = {path: leaf.shape for path, leaf in found.items()}
    assert shapes == {path: leaf.shape for path, leaf in expected.items()}
    assert small.sizes == shapes
    for path, leaf in expected.items():
        if path not in FOLDED.get(case.name, []):
            assert found[path].tobytes() == leaf.tobytes()

    with_them, _ = run(params)
    assert (
        differ(with_them, Outputs(small.apply, small.params, made.inputs, case.output)(small.params)) < 1e-5
    )
    assert np.max(np.abs(with_them[0] - run(made.params)[0][0])) > 1e-2  # the zeros did matter


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_units_that_live_stay(case):
    made, graph = made_of(case), graph_of(case)
    small = jaxreg.compact(graph, made.params)
    assert small.refused == ()
    for path, leaf in leaves_by_path(made.params).items():
        assert leaves_by_path(small.params)[path].tobytes() == leaf.tobytes()
    assert small.report.after == small.report.before
    assert small.report.before.parameters == sum(leaf.size for leaf in jax.tree.leaves(made.params))
