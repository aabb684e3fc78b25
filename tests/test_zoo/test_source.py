"""Values as Python source: read back equal, laid out as ruff does."""

import keyword
import math
import subprocess
import sys
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmsa_mmseg.zoo.source import Name, assignment, inline

KEYS = st.text('abcxyz_', min_size=1, max_size=30).filter(
    lambda key: not keyword.iskeyword(key)
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=40),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=5),
        st.dictionaries(st.text(max_size=12), inner, max_size=3),
    ),
    max_leaves=20,
)


@given(VALUES)
def test_reads_back(value):
    variables = {}
    text = assignment('value', value)
    exec(text, variables)
    assert variables['value'] == value
    assert repr(variables['value']) == repr(value)


def test_names_and_comments():
    value = dict(a=Name('other'), b=dict(c=[1, 2], d=('x',)), nan=float('nan'))
    comments = {
        ('value',): ['above all'],
        ('value', 'b', 'c'): ['two', 'lines'],
    }
    text = assignment('value', value, comments)
    assert text == (
        '# above all\n'
        'value = dict(\n'
        '    a=other,\n'
        '    b=dict(\n'
        '        # two\n'
        '        # lines\n'
        '        c=[1, 2],\n'
        "        d=('x',),\n"
        '    ),\n'
        "    nan=float('nan'),\n"
        ')\n'
    )
    variables = dict(other=3)
    exec(text, variables)
    assert variables['value']['a'] == 3
    assert math.isnan(variables['value']['nan'])


def test_what_cannot_be_written():
    with pytest.raises(TypeError, match='of type set cannot be written'):
        inline(dict(a=[{1, 2}]))


@pytest.mark.skipif(find_spec('ruff') is None, reason='needs ruff')
def test_laid_out_as_ruff_does(tmp_path):
    """At every width around the limit."""
    lines = []
    for length in range(1, 80):
        filling = 'x' * length
        lines += [
            assignment(f'a{length}', dict(type=filling, b=[1, 2])),
            assignment(f'b{length}', dict(c=dict(d=filling, e=(1,)), f=1)),
            assignment(f'c{length}', [dict(type=filling), (1, 'two')]),
            assignment(f'd{length}', {'a.b': filling, 'c': {}}),
            assignment(f'e{length}', [filling, filling[:5], 3]),
        ]
    path = tmp_path / 'lines.py'
    path.write_text(''.join(lines))
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'ruff', 'format', '--diff', '--isolated'),
            *('--line-length', '79', '--config'),
            *("format.quote-style='single'", str(path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[:3000] + done.stderr
