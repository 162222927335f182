"""What Sphinx needs to know. The pages are those that `mirror.py` lays out in `build/source`; no notebook is run here."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import mirror  # noqa: E402

project, version, release = mirror.TITLE, mirror.VERSION, mirror.VERSION
author = copyright = mirror.settings()["author"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinxcontrib.bibtex", "sphinx_copybutton", "docments_as_fields"]
exclude_patterns = ["references.bib"]
nitpicky = False  # types of other packages have no page here

# Notebooks are shown as they were committed. A figure's still picture comes first: `_static/npt.js` puts the live one in its place.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "gfm"
nb_number_source_lines = False

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
myst_update_mathjax = False

add_module_names = False  # a page says its module in its headings
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "undoc-members": True, "no-value": True}
python_maximum_signature_line_length = 100

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"

# Formulae are drawn by a MathJax that is part of the site, so that it can be read where there is no network.
mathjax_path = "mathjax/MathJax.js"
mathjax2_config = {
    "config": ["TeX-AMS-MML_HTMLorMML-full.js"],
    "tex2jax": {"inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]], "ignoreClass": "bd-container", "processClass": "math|text_html"},
    "HTML-CSS": {"availableFonts": [], "webFont": "STIX-Web", "linebreaks": {"automatic": True}},
    "menuSettings": {"zoom": "None"},
    "messageStyle": "none",
    "showMathMenu": False,
}

html_theme = "sphinx_book_theme"
html_title = mirror.TITLE
html_static_path = ["_static", str(DOCS / "build" / "static")]
html_css_files = ["npt.css"]
html_js_files = [("npt.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "use_download_button": False,
    "navbar_persistent": [],  # the search stands in the sidebar
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "logo": {"text": mirror.TITLE},
}
if mirror.REPOSITORY:
    html_theme_options |= {"repository_url": mirror.REPOSITORY, "repository_branch": mirror.BRANCH, "use_repository_button": True,
                           "use_issues_button": True}
suppress_warnings = [
    "mystnb.unknown_mime_type",  # the figures' own data, which npt.js draws
]
os.environ.setdefault("NPT_CACHE", str(DOCS / "build" / "cache"))
