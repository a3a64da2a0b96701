"""Tables of plain text."""

import pytest

from jaxreg.tables import text_table


def test_numbers_are_right_aligned_and_words_left():
    assert text_table(["leaf", "n", "share"], [["kernel", 12, 0.5], ["b", 3, 10.25]]) == (
        "leaf     n  share\n"
        "------  --  -----\n"
        "kernel  12    0.5\n"
        "b        3  10.25"
    )  # fmt: skip


def test_one_word_makes_a_column_of_words():
    assert text_table(["value"], [[1], ["many"], [True]]).splitlines() == [
        "value",
        "-----",
        "1",
        "many",
        "True",
    ]


def test_bools_are_words():
    assert text_table(["in"], [[True], [False]]).splitlines()[2:] == ["True", "False"]
    assert text_table(["chosen"], [[True]]).splitlines()[2] == "True"


def test_no_rows():
    assert text_table(["leaf", "size"], []) == "leaf  size\n----  ----"
    assert text_table(["leaf"], iter([["a"]])) == "leaf\n----\na"


@pytest.mark.parametrize("row", [["a"], ["a", 1, 2]])
def test_a_row_of_another_length_is_refused(row):
    with pytest.raises(ValueError, match="2 columns") as caught:
        text_table(["leaf", "size"], [["b", 2], row])
    assert str(caught.value) == f"The table has 2 columns. Got a row of {len(row)} cells: {row}."
