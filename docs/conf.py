"""Sphinx configuration. Warnings are errors: `make docs`."""

from importlib.metadata import version as installed_version

project = "Coterie"
author = "The Coterie developers"
project_copyright = "The Coterie developers; Apache-2.0"
release = installed_version("coterie")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"Coterie {release}"
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Attributes are also found as dataclass fields; as `:ivar:` they are not described twice.
napoleon_use_ivar = True
napoleon_use_rtype = False
