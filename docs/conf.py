"""How `make docs` builds the documentation, with Sphinx.

Pages of the API are made of docstrings, one for each module, by sphinx-apidoc
(docs/_templates says how), and what a package exports is shown where it is
defined.
"""

# First: it makes the rest of the OpenMMLab stack importable.
import hmsa_mmseg  # isort: skip
import re

project = 'hmsa_mmseg'
release = hmsa_mmseg.__version__
extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
]
exclude_patterns = ['_build', '_templates']
html_theme = 'furo'
html_title = f'hmsa_mmseg {release}'

myst_enable_extensions = ['dollarmath', 'amsmath']
# Links to headings, as on code hosting sites.
myst_heading_anchors = 4

autodoc_typehints = 'none'  # docstrings give types and shapes
napoleon_use_ivar = True

# External links, for `make docs-links`: what answers machines with an error.
linkcheck_ignore = [r'https://(www\.)?mapillary\.com/.*']


def _name_files_outside(app, docname, source):
    """Name the files of the repository that are not part of these pages."""
    source[0] = re.sub(
        r'\[([^\]]+)\]\((?:\.\./)+((?:configs|tools|tests)/[^)]+|[A-Z]+\.md)\)',
        r'\1 (`\2`)',
        source[0],
    )


def setup(app):
    """Document public members alone, and no links to other files.

    napoleon's hook asks every class for its private members too, and what
    mmcv's ``cache_randomness`` puts there raises when asked.
    """
    listeners = app.events.listeners['autodoc-skip-member']
    listeners[:] = [
        listener
        for listener in listeners
        if listener.handler.__module__ != 'sphinx.ext.napoleon'
    ]
    app.connect('source-read', _name_files_outside)
