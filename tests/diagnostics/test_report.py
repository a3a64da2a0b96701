"""The table of zeros: numbers, plain text, and rich."""

import io
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

import jaxreg
from jaxreg import groups, masks

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]]), "bias": jnp.array([0.0, 1.0, 2.0])},
    "scale": jnp.ones(()),
    "steps": jnp.arange(3),
    "hole": None,
}
COLUMNS = {"groups": groups.outputs(), "mask": masks.weights}


def drawn(report, width=120):
    stream = io.StringIO()
    rich.console.Console(file=stream, width=width, force_terminal=True, color_system="truecolor").print(
        report
    )
    return stream.getvalue()


def test_plain_table():
    assert str(jaxreg.report(PARAMS)) == (
        "leaf          shape  elements  zeros  % zeros\n"
        "------------  -----  --------  -----  -------\n"
        "dense/bias    3             3      1     33.3\n"
        "dense/kernel  2x3           6      3     50.0\n"
        "scale                       1      0      0.0\n"
        "total                      10      4     40.0"
    )


def test_plain_table_with_groups():
    assert str(jaxreg.report(PARAMS, **COLUMNS)) == (
        "leaf          shape  elements  zeros  % zeros  groups  zero groups  % groups\n"
        "------------  -----  --------  -----  -------  ------  -----------  --------\n"
        "dense/bias    3             3      1     33.3       -            -         -\n"
        "dense/kernel  2x3           6      3     50.0       3            1      33.3\n"
        "scale                       1      0      0.0       -            -         -\n"
        "total                      10      4     40.0       3            1      33.3"
    )


def test_thousands_are_separated():
    line = str(jaxreg.report({"w": jnp.arange(3000.0) % 2})).splitlines()[2]
    assert line.split() == ["w", "3000", "3,000", "1,500", "50.0"]


def test_dict():
    found = jaxreg.report(PARAMS, **COLUMNS).to_dict()
    kernel = {"shape": (2, 3), "elements": 6, "zeros": 3, "sparsity": 0.5}
    assert found["leaves"] == {
        "dense/bias": {"shape": (3,), "elements": 3, "zeros": 1, "sparsity": 1 / 3},
        "dense/kernel": kernel | {"groups": 3, "zero_groups": 1, "group_sparsity": 1 / 3},
        "scale": {"shape": (), "elements": 1, "zeros": 0, "sparsity": 0.0},
    }
    assert found["total"] == {
        "elements": 10,
        "zeros": 4,
        "sparsity": 0.4,
        "groups": 3,
        "zero_groups": 1,
        "group_sparsity": 1 / 3,
    }
    assert json.loads(json.dumps(found))["total"] == found["total"]
    assert set(jaxreg.report(PARAMS).to_dict()["total"]) == {"elements", "zeros", "sparsity"}


def test_it_agrees_with_sparsity():
    params = {"a": {"kernel": jnp.eye(6)}, "b": {"kernel": jnp.zeros((4, 2), jnp.bfloat16)}}
    for structure in (groups.outputs(), groups.blocks((2, 2)), groups.layers()):
        total = jaxreg.report(params, structure).to_dict()["total"]
        np.testing.assert_allclose(total["sparsity"], jaxreg.sparsity(params), rtol=1e-6)
        np.testing.assert_allclose(total["group_sparsity"], jaxreg.sparsity(params, structure), rtol=1e-6)


@pytest.mark.parametrize(
    "params", [{}, {"n": jnp.arange(2)}, {"hole": None}], ids=["empty", "integers", "hole"]
)
def test_nothing_to_report(params):
    for structure in (None, groups.outputs()):
        found = jaxreg.report(params, structure)
        assert found.to_dict() == {"total": {"elements": 0, "zeros": 0, "sparsity": 0.0}, "leaves": {}}
        assert str(found).splitlines()[-1].split() == ["total", "0", "0", "0.0"]


def test_a_single_array():
    assert jaxreg.report(jnp.zeros((2, 3))).to_dict()["leaves"][""]["zeros"] == 6


def test_a_leaf_called_total_is_a_leaf():
    found = jaxreg.report({"total": jnp.zeros((2, 3)), "w": jnp.ones(2)})
    assert found.to_dict()["leaves"]["total"]["shape"] == (2, 3)
    assert str(found).splitlines()[2].split()[:2] == ["total", "2x3"]


def test_rich_table():
    text = drawn(jaxreg.report(PARAMS, **COLUMNS))
    for word in ("Exact zeros", "dense/kernel", "2x3", "groups", "33.3", "total", "40.0"):
        assert word in text
    assert "\x1b[32m50.0" in text  # half or more of it is zero: green
    assert "\x1b[33m33.3" in text
    assert "\x1b[2m0.0" in text


def test_rich_table_shows_paths_as_they_are():
    text = drawn(jaxreg.report({"w[bold]x": jnp.ones(2), "[/red]": jnp.ones(2)}))
    assert "w[bold]x" in text
    assert "[/red]" in text


def test_without_rich_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.table", None)
    found = jaxreg.report(PARAMS)
    with pytest.raises(ImportError) as caught:
        found.__rich__()
    assert str(caught.value) == "A rich table needs the extra 'tables': pip install jaxreg[tables]"
    assert str(found).startswith("leaf")  # the plain table needs nothing


def test_errors():
    with pytest.raises(ValueError, match=r"mask=jaxreg.masks.weights\."):
        jaxreg.report(PARAMS, groups.outputs())
    with pytest.raises(TypeError, match="The 'groups' parameter of report must be a structure from"):
        jaxreg.report(PARAMS, masks.weights)
