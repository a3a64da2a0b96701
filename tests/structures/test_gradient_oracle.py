"""Gradients, which know nothing of jaxprs, find no weight that a group has forgotten."""

import dataclasses

import pytest
from structures.models import CASES
from structures.oracles import generic_points, golden, graph_of, missing_from, prepared

every_case = pytest.mark.parametrize("case", [case for case in CASES if case.groups], ids=str)

FOLDED = {"sigmoid_before_a_bias"}
"""What reads a unit here reads a constant, which is not zero."""


@every_case
def test_what_falls_silent_with_a_unit_is_a_member_of_its_group(case):
    made, run = prepared(case)
    points = generic_points(made)
    for group in graph_of(case).groups:
        exact = golden(case, group).refused is None and case.name not in FOLDED
        assert missing_from(group, group.size // 2, points, run, exact) == []


@pytest.mark.parametrize("name", ["mlp", "resnet_b", "mobilenet", "gpt_qkv_by_reshape", "lstm"])
def test_the_oracle_sees_every_forgotten_consumer(name):
    [case] = [case for case in CASES if case.name == name]
    made, run = prepared(case)
    points = generic_points(made)
    for group in case.groups:
        for member in group.members:
            if member.role == "consumes":
                without = dataclasses.replace(group, members=group.members - {member})
                assert missing_from(without, group.size // 2, points, run, exact=True)
