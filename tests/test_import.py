"""What importing jaxreg costs, and which versions it promises to work with."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import jaxreg

ROOT = pathlib.Path(__file__).parents[1]
OPTIONAL = ("flax", "matplotlib", "rich", "orbax", "equinox", "haiku", "sklearn", "tqdm")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def loaded():
    code = "import sys, jaxreg; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("package", OPTIONAL)
def test_import_loads_no_optional_package(package, loaded):
    assert "jaxreg" in loaded
    assert package not in loaded


def test_every_public_name_exists_once():
    assert len(set(jaxreg.__all__)) == len(jaxreg.__all__)
    for name in jaxreg.__all__:
        assert hasattr(jaxreg, name)


def test_oldest_pins_are_the_floors_of_the_project(project):
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "tests/oldest-pins.txt").read_text(), re.MULTILINE))
    stated = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["flax"],
        *(entry for entry in project["dependency-groups"]["test"] if isinstance(entry, str)),
    ]
    floors = dict(re.fullmatch(r"([\w-]+)>=(\S+)", entry).groups() for entry in stated)
    assert pins == {name: floors[name] for name in pins}
    assert {"jax", "jaxlib", "optax", "chex"} <= set(pins)


def test_version_is_that_of_the_citation():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert jaxreg.__version__ == cited[1]
