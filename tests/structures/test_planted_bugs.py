"""The oracles earn their trust: a rule that forgets a tie, or misplaces one, is found out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from structures.models import CASES
from structures.oracles import (
    Outputs,
    dead_units,
    differ,
    generic_points,
    graph_of,
    missing_from,
    prepared,
    with_zeros,
)

import jaxreg
from jaxreg import structures
from jaxreg.structures import exactness, rules, rules_control
from jaxreg.structures.dimensions import concatenation, leaf, product
from jaxreg.structures.rules import Axis

CASE = {case.name: case for case in CASES}


def complaint(case: Any) -> str | None:
    """What running the model says against the groups that are found in it."""
    made, run = prepared(case)
    graph = structures.trace(made.apply, made.params, *made.inputs, **case.options)
    points = generic_points(made)
    for group in graph.groups:
        found = missing_from(group, group.size // 2, points, run, exact=True)
        if found:
            return found[0]
    return difference_of(case, graph)


def difference_of(case: Any, graph: Any) -> str | None:
    """What comparing it with the compacted model says."""
    made, run = prepared(case)
    params = with_zeros(made.params, dead_units(graph.groups))
    try:
        small = jaxreg.compact(graph, params)
        found = Outputs(small.apply, small.params, made.inputs, case.output)(small.params)
    except (TypeError, ValueError) as error:  # shapes that do not fit
        return str(error)
    return None if differ(run(params)[0], found) < 1e-5 else "the outputs differ"


def of_first_input_alone(operation: Any) -> Any:
    """Axes that are not made one with those of the other inputs."""
    axes = []
    for axis, size in enumerate(operation.outputs[0].shape):
        full = [
            (place, axis)
            for place, value in enumerate(operation.inputs)
            if len(value.shape) > axis and value.shape[axis] == size
        ]
        first = operation.inputs[full[0][0]].dims[axis]
        axes.append(Axis(first, tuple(full)))
    return [axes]


def fresh_axes(operation: Any) -> Any:
    return [[Axis(leaf(size)) for size in value.shape] for value in operation.outputs]


def turned_around(operation: Any) -> Any:
    """A concatenation whose parts are thought to lie in the other order."""
    [axes] = honest("concatenate")(operation)
    along = operation.params["dimension"]
    parts = [value.dims[along] for value in operation.inputs]
    axes[along] = Axis(concatenation(parts[::-1]), axes[along].moves)
    return [axes]


def column_major(operation: Any) -> Any:
    """A flattening whose last axis is thought to run slowest."""
    [axes] = honest("reshape")(operation)
    (value,) = operation.inputs
    if len(axes) == 2 and len(value.shape) == 4:
        axes[1] = Axis(product(value.dims[:0:-1]), axes[1].moves)
    return [axes]


def without_offset(operation: Any) -> Any:
    """A padding whose zeros are all thought to lie behind."""
    [axes] = honest("pad")(operation)
    for axis, (low, high, _) in enumerate(operation.params["padding_config"]):
        if low and high:
            axes[axis] = Axis(concatenation([operation.inputs[0].dims[axis], leaf(low + high)]))
    return [axes]


def untied_channels(operation: Any) -> Any:
    """A depthwise convolution whose inputs and outputs are thought to have nothing to do with each other."""
    [axes] = honest("conv_general_dilated")(operation)
    if operation.params["feature_group_count"] > 1:
        numbers = operation.params["dimension_numbers"]
        axes[numbers.out_spec[1]] = Axis(leaf(operation.outputs[0].shape[numbers.out_spec[1]]))
    return [axes]


HONEST = dict(rules.RULES)


def honest(name: str) -> Callable[[Any], Any]:
    return HONEST[name]


@pytest.mark.parametrize(
    ("name", "primitive", "bug"),
    [
        ("resnet_b", "add", of_first_input_alone),
        ("mobilenet", "mul", of_first_input_alone),
        ("mlp", "dot_general", fresh_axes),
        ("split_and_joined", "split", fresh_axes),
        ("split_and_joined", "concatenate", turned_around),
        ("densenet", "concatenate", turned_around),
        ("lenet", "reshape", column_major),
        ("resnet_a", "pad", without_offset),
        ("mobilenet", "conv_general_dilated", untied_channels),
    ],
)
def test_a_rule_with_a_bug_is_found_out(name, primitive, bug, monkeypatch):
    monkeypatch.setitem(rules.RULES, primitive, bug)
    assert complaint(CASE[name]) is not None


def test_a_scan_that_does_not_carry_is_found_out(monkeypatch):
    monkeypatch.setattr(rules_control, "_join_all", lambda ours, theirs, operation: None)
    assert complaint(CASE["elman"]) is not None


@pytest.mark.parametrize(
    ("name", "forgotten"),
    [
        ("softmax_of_features", ["reduce_max", "reduce_sum", "dot_general"]),
        ("layer_norm_of_deviations", ["reduce_sum", "dot_general"]),
        ("weight_standardisation", ["reduce_sum"]),
        ("sigmoid_before_no_bias", ["dot_general"]),
    ],
)
def test_a_sum_that_is_thought_not_to_see_the_dead_is_found_out(name, forgotten, monkeypatch):
    case = CASE[name]
    [(_, dead)] = dead_units(graph_of(case).groups)
    judge = exactness.Exactness.judge

    def forgetful(self, operation, unit, ok, *fold):
        if operation.name in forgotten:
            ok = ok | np.isin(np.arange(unit.size), dead)
        judge(self, operation, unit, ok, *fold)

    monkeypatch.setattr(exactness.Exactness, "judge", forgetful)
    assert difference_of(case, graph_of(case)) == "the outputs differ"
