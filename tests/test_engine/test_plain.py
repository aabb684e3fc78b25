import logging
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from hmsa_mmseg.engine.plain import to_plain


@pytest.fixture
def messages(caplog):
    """Return the warnings the current mmengine logger gives from here on."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        (np.float64(0.25), 0.25),
        (np.int64(7), 7),
        (np.bool_(False), False),
        (np.str_('road'), 'road'),
        (np.array(3.0), 3.0),
        (np.arange(3), [0, 1, 2]),
        ((np.int8(1), 'a', None), (1, 'a', None)),
        ({np.int64(1), 2}, {1, 2}),
        ({np.int64(1): [np.float32(2)]}, {1: [2.0]}),
    ],
)
def test_to_plain_converts_numpy(value, expected):
    def types(value):
        if isinstance(value, dict):
            return dict, [types(pair) for pair in value.items()]
        if isinstance(value, (list, tuple, set)):
            return type(value), sorted(map(str, map(types, value)))
        return type(value)

    found = to_plain(value, path='meta')
    assert found == expected
    assert types(found) == types(expected)


@pytest.mark.parametrize(
    'value',
    [1, 0.5, 1j, 'a', b'a', None, True, torch.float16, torch.Size([2])],
)
def test_to_plain_keeps_plain_values(value, messages):
    assert to_plain(value, path='meta') is value
    assert messages() == []


def test_to_plain_keeps_tensors_and_copies_containers():
    tensor = torch.ones(2)
    state = OrderedDict(state=[tensor])
    plain = to_plain(state, path='optimizer')
    assert type(plain) is OrderedDict
    assert plain['state'][0] is tensor
    assert plain is not state
    assert plain['state'] is not state['state']


def test_foreign_object_is_kept_with_a_warning_that_names_it(messages):
    class Foreign:
        pass

    foreign = Foreign()
    plain = to_plain(dict(notes=[dict(author=foreign)]), path='meta')
    assert plain['notes'][0]['author'] is foreign
    (message,) = messages()
    assert 'meta.notes.author is a Foreign' in message
    assert 'weights_only=True' in message
