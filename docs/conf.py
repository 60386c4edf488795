"""Sphinx's configuration; `make docs` (ci/docs_site.py) puts it beside the pages that it assembles."""

from mxnet_trt_property import __version__

project = "mxnet-trt-property"
author = "the authors of mxnet-trt-property"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nitpicky = True
# Types of other packages, and what their signatures call by a name that is not public.
nitpick_ignore_regex = [("py:.*", r"(?!mxnet_trt_property).*"), ("py:.*", r"mxnet_trt_property\.\w+\._?\w+")]

# Anchors as GitHub makes them, so that a link works there and here.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
# "..." in a sample of JSON or of a log is no error.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navigation_with_keys": False,
    "navbar_persistent": [],
    "footer_content_items": [],
}
