"""Sphinx configuration.

The build needs no network: there is no intersphinx, and mathjax loads in the reader's browser.
"""

import jaxreg

project = "jaxreg"
author = "The jaxreg authors"
project_copyright = author
version = release = jaxreg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# One page per line of the tables in api/index.md, written to api/generated at build time.
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # the docstrings say more than Any does
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"jaxreg {release}"
html_show_sourcelink = False
