"""The Python code of the README and of the documentation runs."""

import pathlib
import re
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FENCE = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PAGES = [
    page.relative_to(ROOT).as_posix()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
    if page.exists() and "_build" not in page.parts and FENCE.search(page.read_text())
]


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what it writes goes away
    monkeypatch.setenv("MPLBACKEND", "Agg")
    text = (ROOT / page).read_text()
    namespace = {"__name__": "__main__"}
    for block in FENCE.finditer(text):
        # Blank lines in front, so that a traceback gives the line of the page.
        line = text.count("\n", 0, block.start(2))
        exec(compile("\n" * line + textwrap.dedent(block[2]), page, "exec"), namespace)
