"""Sphinx's settings; `python docs/build.py` puts the sources into build/source and calls Sphinx."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import docstrings
import site_pages
import translation

import pyrovae

project = "pyrovae"
author = "the authors of pyrovae"
version = release = pyrovae.__version__
html_title = f"pyrovae {version}"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["downloads"]

# Text is Markdown, and notebooks come executed: nothing runs here, nothing asks the network.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
mathjax_path = "mathjax/tex-chtml.js"
suppress_warnings = [
    "ref.python",  # an attribute named elbo, of more than one class
    "mystnb.mime_priority",  # message catalogues have no pictures
]

# The reference: docstrings in Google style, signatures as the source writes them.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 120
toc_object_entries_show_parents = "hide"

# Chinese: `sphinx-build -D language=zh_CN` reads the catalogues of docs/locale.
language = "en"
locale_dirs = [str(Path(__file__).parent / "locale")]
gettext_compact = False
gettext_location = False
gettext_uuid = False

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
html_static_path = [str(Path(__file__).parent / "_static"), str(site_pages.MATHJAX)]
html_css_files = ["site.css"]
templates_path = [str(Path(__file__).parent / "_templates")]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "languages.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Connect what is ours: docstrings to reStructuredText, and what is not translated."""
    app.connect("autodoc-process-docstring", docstrings.to_restructured_text)
    app.connect("doctree-read", translation.check)
