"""Sphinx settings: `sphinx-build -W -n -b html docs docs/_build/html`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import process_reference  # noqa: E402
import settings_reference  # noqa: E402

from docker_kernel import __version__  # noqa: E402

settings_reference.renew()
process_reference.renew()

project = "docker-kernel"
author = "docker-kernel contributors"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages; our pages' own links are checked
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "docker-kernel"
html_static_path: list[str] = []
