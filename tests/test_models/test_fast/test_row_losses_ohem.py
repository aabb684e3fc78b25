"""The choice of hard pixels against mmseg's sampler."""

from types import SimpleNamespace

import pytest
import torch
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures.sampler import OHEMPixelSampler

from hmsa_mmseg.models.fast.row_losses_ohem import hard_pixels
from hmsa_mmseg.models.fast.row_losses_walk import RowLogits

SIZE = (23, 31)


def make_case(seed=0, ignored=0.2, levels=None):
    """Logits of the input's size: nothing is resized or rounded."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, *SIZE, generator=generator)
    if levels is not None:  # many pixels with the same loss
        logits = (logits * levels).round() / levels
    label = torch.randint(4, (2, *SIZE), generator=generator)
    label[torch.rand(2, *SIZE, generator=generator) < ignored] = 255
    return logits, label


def choose(logits, label, losses, **kwargs):
    context = SimpleNamespace(
        ignore_index=255, loss_decode=torch.nn.ModuleList(losses)
    )
    sampler = OHEMPixelSampler(context, **kwargs)
    source = RowLogits((1.0,), (logits,), (None,), SIZE, False)
    found = hard_pixels(sampler, losses, source, label, 255)
    return found, sampler.sample(logits, label[:, None])


LOSSES = [
    [CrossEntropyLoss()],
    [
        CrossEntropyLoss(avg_non_ignore=True, loss_weight=0.3),
        CrossEntropyLoss(class_weight=[1.0, 0.5, 2.0, 4.0], loss_weight=2.0),
    ],
]


@pytest.mark.parametrize('losses', LOSSES)
@pytest.mark.parametrize('thresh', [None, 0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize('kept', [2, 50, 300, 10**6])
@pytest.mark.parametrize('ignored', [0.0, 0.2, 0.9, 2.0])
def test_chooses_the_pixels_of_mmseg(losses, thresh, kept, ignored):
    logits, label = make_case(ignored=ignored)
    found, expected = choose(
        logits, label, losses, thresh=thresh, min_kept=kept
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize('thresh', [None, 0.2])
def test_of_pixels_that_tie_as_many_as_in_mmseg(thresh):
    logits, label = make_case(levels=1)
    found, expected = choose(
        logits, label, LOSSES[0], thresh=thresh, min_kept=100
    )
    assert found.sum() == expected.sum()
    assert not found[label == 255].any()


def test_a_loss_that_is_not_a_number_is_chosen():
    logits, label = make_case(ignored=0)
    logits[1, 2, 5, 6] = torch.nan
    found, expected = choose(logits, label, LOSSES[0], min_kept=50)
    assert found[1, 5, 6] == expected[1, 5, 6] == 1
