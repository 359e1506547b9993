"""Configuration of Sphinx. Build with `sphinx-build -W --keep-going -n docs site`; it downloads nothing."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import tokenscope

project = "tokenscope"
author = "The tokenscope authors"
version = release = tokenscope.__version__
language = "en"
smartquotes_action = "qe"  # no dashes: options begin with two hyphens

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "docstrings",
    "llms",
    "pytest_reference",
]
exclude_patterns = ["_extensions", "examples"]
root_doc = "index"

html_theme = "furo"
html_title = f"tokenscope {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

myst_heading_anchors = 3

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    # Internal methods of public classes.
    "exclude-members": "above, account, begin, below, budgets, close, detour, ended, finish, found, frames, from_counts, "
    "from_rows, from_table, is_referenced, leave, opened_by, path, put, started, table",
}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "name"

nitpick_ignore_regex = [
    (r"py:.*", r"(?!tokenscope\b)([A-Za-z_]\w*\.)+\w+"),  # other packages' names
    (r"py:(class|exc)", r"[a-z]+|[A-Z]|[A-Z]\w*(Error|Warning)|Exception|Decimal|\.\.\."),  # the standard library's
    (
        r"py:class",
        r"(tokenscope\.[\w.]+\.)?([A-Z]|Decorator|GepaStopper|Growth|OnExceed|Options|Path|Wastes)",
    ),  # types that need no import
]
