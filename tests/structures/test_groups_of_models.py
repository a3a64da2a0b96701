"""The groups found in every model of the zoo are those written down by hand, no more and no fewer."""

import numpy as np
import pytest
from structures.models import CASES
from structures.models.case import Member
from structures.oracles import graph_of

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def as_written(group):
    """The group in the words of the zoo: units in the order of positions."""
    return group.size, frozenset(
        Member(
            member.path,
            member.axis,
            member.role,
            tuple(tuple(sorted(row)) for row in np.asarray(member.indices).tolist()),
        )
        for member in group.members
    )


@every_case
def test_the_groups_found_are_the_golden_ones(case):
    found = {as_written(group) for group in graph_of(case).groups}
    assert found == {(group.size, group.members) for group in case.groups}
