import pytest
import torch

from hmsa_mmseg.engine.nonfinite import (
    constant_infinities,
    nonfinite_names,
)
from hmsa_mmseg.engine.process_groups import any_process

TENSORS = dict(
    good=torch.ones(2),
    none=torch.empty(0),
    count=torch.tensor(3),
    nan=torch.tensor([1.0, torch.nan]),
    inf=torch.tensor([[torch.inf, 1.0]]),
    half=torch.tensor([-torch.inf], dtype=torch.float16),
    both=torch.tensor([torch.inf, torch.nan]),
    complex=torch.tensor([complex(0, torch.nan)]),
)


def test_names():
    expected = ['nan', 'inf', 'half', 'both', 'complex']
    assert nonfinite_names(TENSORS) == expected
    assert nonfinite_names(TENSORS, but={'inf', 'both'}) == [
        'nan',
        'half',
        'complex',
    ]


def test_constant_infinities_have_no_nan():
    assert constant_infinities(TENSORS) == {'inf', 'half'}


@pytest.mark.parametrize('flag', [True, False])
def test_one_process_is_all(flag):
    assert any_process(flag) is flag
    assert any_process(torch.tensor(flag)) is flag
