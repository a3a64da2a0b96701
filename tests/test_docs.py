"""Every public name has a page in the documentation and says what it is."""

import ast
import inspect
import itertools
import pathlib
import re

import pytest

import jaxreg
from jaxreg import groups, masks, structures

INDEX = pathlib.Path(__file__).parents[1] / "docs" / "api" / "index.md"
MODULES = {"jaxreg": jaxreg, "jaxreg.masks": masks, "jaxreg.groups": groups, "jaxreg.structures": structures}
PUBLIC = [
    f"{name}.{attribute}"
    for name, module in MODULES.items()
    for attribute in module.__all__
    if not inspect.ismodule(getattr(module, attribute)) and not attribute.startswith("__")
]


def listed():
    """Names in the autosummary tables, each of which becomes a page."""
    found, module, in_table = [], None, False
    for line in INDEX.read_text().splitlines():
        if match := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
            module = match[1]
        in_table = line == ".. autosummary::" or (in_table and (not line or line.startswith("   ")))
        if in_table and re.fullmatch(r"   \w+", line):
            found.append(f"{module}.{line.strip()}")
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_an_api_page(name):
    module = name.rpartition(".")[0]
    assert name in listed(), f"{name} has no page: add it to the table of {module} in docs/api/index.md"


def test_api_pages_are_of_public_names_and_listed_once():
    assert sorted(listed()) == sorted(PUBLIC)


def attribute_docstrings(module):
    """``{name: docstring}`` of the module's values that have a string below their assignment."""
    body = ast.parse(inspect.getsource(module)).body
    found = {}
    for node, below in itertools.pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(targets[0], ast.Name) and isinstance(below, ast.Expr):
            found[targets[0].id] = getattr(below.value, "value", None)
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_a_docstring_and_functions_an_example(name):
    module, _, attribute = name.rpartition(".")
    value = getattr(MODULES[module], attribute)
    if inspect.isfunction(value):
        assert ">>>" in (value.__doc__ or ""), f"{name} has no docstring with an example"
    elif inspect.isclass(value):
        assert value.__doc__, f"{name} has no docstring"
    else:
        assert attribute_docstrings(MODULES[module]).get(attribute), f"{name} has no docstring below it"
