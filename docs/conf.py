"""How `make docs` builds the documentation, with Sphinx.

Pages of the API are made of docstrings, one for each module, by sphinx-apidoc
(docs/_templates says how), and what a package exports is shown where it is
defined.
"""

# First: it makes the rest of the OpenMMLab stack importable.
import hmsa_mmseg  # isort: skip
import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

project = 'hmsa_mmseg'
release = hmsa_mmseg.__version__
extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
]
exclude_patterns = ['_build', '_static', '_templates']
html_theme = 'furo'
html_title = f'hmsa_mmseg {release}'
html_show_copyright = False
html_static_path = ['_static']
html_css_files = ['pages.css']
# Formulas as MathML, which browsers show without a network.
html_math_renderer = 'mathml'

myst_enable_extensions = ['dollarmath', 'amsmath']
# Links to headings, as on code hosting sites.
myst_heading_anchors = 4

autodoc_typehints = 'none'  # docstrings give types and shapes
napoleon_use_ivar = True
# The heading of a page is the module's name.
add_module_names = False

# External links, for `make docs-links`: what answers machines with an error.
linkcheck_ignore = [r'https://(www\.)?mapillary\.com/.*']


#: What a README adds for the sidebar: the other pages of its folder.
_OTHER_PAGES = """
```{toctree}
:glob:
:hidden:

*
```
"""


def _adapt_page(app, docname, source):
    """Name files that are not part of these pages, list those that are."""
    source[0] = re.sub(
        r'\[([^\]]+)\]\((?:\.\./)+((?:configs|tools|tests)/[^)]+|[A-Z]+\.md)\)',
        r'\1 (`\2`)',
        source[0],
    )
    folder = Path(app.srcdir, docname).parent
    if docname.endswith('/README') and len([*folder.glob('*.md')]) > 1:
        source[0] += _OTHER_PAGES


def _skip_fields(app, what, name, obj, skip, options):
    """Leave out fields of named tuples, which their class describes."""
    return True if type(obj).__name__ == '_tuplegetter' else None


def _write_inline(writer, node):
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _write_block(writer, node):
    # Wide ones scroll on a phone.
    writer.body.append('<div style="overflow-x: auto">')
    writer.body.append(convert(node.astext(), display='block'))
    writer.body.append('</div>')
    raise nodes.SkipNode


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
    app.connect('autodoc-skip-member', _skip_fields)
    app.connect('source-read', _adapt_page)
    app.add_html_math_renderer(
        'mathml', (_write_inline, None), (_write_block, None)
    )
