import json
import zlib
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

from hmsa_mmseg.zoo.nvidia_keys import nvidia_to_ours, ours_to_nvidia

ROOT = Path(__file__).parents[2]
CONFIG = ROOT.joinpath(
    'configs/hmsa',
    'hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py',
)
SHAPES = ROOT / 'tests/data/golden/state_dict_shapes_hrnet_mscale_c19.json'
BLOCK = 'decode_head.seg_head.1.object_context_block.'
THEIR_BLOCK = 'ocr.ocr_distri_head.object_context_block.'
# One of each kind, written out by hand. All others are covered by the golden
# values, which a swap of any two would change.
SOME_PAIRS = {
    'backbone.stage3.2.fuse_layers.0.1.0.weight': (
        'backbone.stage3.2.fuse_layers.0.1.0.weight'
    ),
    'decode_head.seg_head.0.convs.0.conv.weight': 'ocr.aux_head.0.weight',
    'decode_head.seg_head.0.conv_seg.bias': 'ocr.aux_head.2.bias',
    'decode_head.seg_head.1.conv_seg.weight': 'ocr.cls_head.weight',
    f'{BLOCK}query_project.1.bn.running_var': (
        f'{THEIR_BLOCK}f_pixel.3.0.running_var'
    ),
    f'{BLOCK}key_project.0.conv.weight': f'{THEIR_BLOCK}f_object.0.weight',
    f'{BLOCK}value_project.bn.bias': f'{THEIR_BLOCK}f_down.1.0.bias',
    f'{BLOCK}out_project.conv.weight': f'{THEIR_BLOCK}f_up.0.weight',
    f'{BLOCK}bottleneck.bn.weight': (
        'ocr.ocr_distri_head.conv_bn_dropout.1.0.weight'
    ),
    'decode_head.scale_attn.bn1.running_mean': 'scale_attn.bn1.running_mean',
    'decode_head.scale_attn.conv2.weight': 'scale_attn.conv2.weight',
}
OLD_ATTN_NAMES = {'conv0': 0, 'bn0': 1, 'conv1': 3, 'bn1': 4, 'conv2': 6}


@pytest.fixture(scope='module')
def shapes():
    """Shapes of the state dict of the authors' model, as our config has it."""
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(CONFIG).model
    cfg.pretrained = None
    with torch.device('meta'):
        model = MODELS.build(cfg)
    return {key: value.shape for key, value in model.state_dict().items()}


@pytest.fixture
def theirs():
    """The authors' entries, each filled with a number of its own."""
    return {
        key: torch.tensor(zlib.crc32(key.encode()) / 2**32).expand(shape)
        for key, shape in json.loads(SHAPES.read_text()).items()
    }


def test_each_entry_finds_its_place(theirs, shapes):
    result = nvidia_to_ours(theirs, shapes)
    result.check('theirs')
    state = result.state_dict
    assert {key: value.shape for key, value in state.items()} == shapes
    assert result.used.keys() == theirs.keys()
    for key, their_key in SOME_PAIRS.items():
        assert torch.equal(state[key], theirs[their_key]), key


def test_biases_before_batch_norm_are_folded(theirs, shapes):
    state = nvidia_to_ours(theirs, shapes).state_dict
    for key, layer in (
        ('seg_head.0.convs.0', 'ocr.aux_head'),
        ('seg_head.1.bottleneck', 'ocr.conv3x3_ocr'),
    ):
        expected = (
            theirs[f'{layer}.1.0.running_mean'] - theirs[f'{layer}.0.bias']
        )
        assert expected.abs().max() > 0
        found = state[f'decode_head.{key}.bn.running_mean']
        assert torch.equal(found, expected)


def test_old_names_of_the_attention_branch(theirs, shapes):
    expected = nvidia_to_ours(theirs, shapes).state_dict
    for name, index in OLD_ATTN_NAMES.items():
        for key in [k for k in theirs if k.startswith(f'scale_attn.{name}.')]:
            theirs[key.replace(name, str(index))] = theirs.pop(key)
    assert 'scale_attn.6.weight' in theirs
    found = nvidia_to_ours(theirs, shapes)
    found.check('old')
    assert found.state_dict.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found.state_dict[key], value), key


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('scale_attn.conv2.weight', None, r'missing \(1\):\n  scale_attn.co'),
        ('ocr.aux_head.0.bias', None, r'missing \(1\):\n  ocr.aux_head.0'),
        ('ocr.aux_head.0.bias', torch.ones(1), r'over \(1\):\n  ocr.aux_hea'),
    ],
)
def test_what_does_not_fit_is_an_error(key, value, message, theirs, shapes):
    theirs[key] = value
    if value is None:
        del theirs[key]
    with pytest.raises(ValueError, match=message):
        nvidia_to_ours(theirs, shapes).check('file')


def test_reverse_names_missing_keys_as_ours(theirs, shapes):
    ours = nvidia_to_ours(theirs, shapes).state_dict
    del ours['decode_head.scale_attn.bn0.bias']
    message = r'missing \(1\):\n  decode_head.scale_attn.bn0.bias$'
    with pytest.raises(ValueError, match=message):
        ours_to_nvidia(ours, shapes).check('file')


@pytest.mark.parametrize('with_attn', [True, False])
def test_there_and_back(theirs, shapes, with_attn):
    if not with_attn:
        theirs = {k: v for k, v in theirs.items() if 'scale_attn' not in k}
    ours = nvidia_to_ours(theirs, shapes)
    back = ours_to_nvidia(ours.state_dict, shapes)
    again = nvidia_to_ours(back.state_dict, shapes)
    for result in (ours, back, again):
        result.check('result')

    found = back.state_dict
    for layer in ('ocr.aux_head', 'ocr.conv3x3_ocr'):
        bias, mean = f'{layer}.0.bias', f'{layer}.1.0.running_mean'
        # What counts is mean - bias, and it stays.
        theirs[mean] = theirs[mean] - theirs[bias]
        theirs[bias] = torch.zeros_like(theirs[bias])
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[key], theirs[key]) for key in theirs)

    first, second = ours.state_dict, again.state_dict
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
