"""Files of the authors' training, to mmseg's and back."""

import json
import zlib
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT.joinpath(
    'configs/hmsa',
    'hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py',
)
SHAPES = ROOT / 'tests/data/golden/state_dict_shapes_hrnet_mscale_c19.json'
STOCK_OCRNET = Path(mmseg.__file__).parent.joinpath(
    '.mim/configs/ocrnet/ocrnet_hr48_4xb2-80k_cityscapes-512x1024.py'
)
OLD_ATTN_NAMES = {'conv0': 0, 'bn0': 1, 'conv1': 3, 'bn1': 4, 'conv2': 6}


@pytest.fixture(scope='module')
def convert(load_tool):
    """Return a function that runs the tool."""
    tool = load_tool('model_converters/nvidia2mmseg.py')
    return lambda *args: tool.main([str(arg) for arg in args])


def their_state(num_classes=19, with_attn=True):
    """The authors' entries, each filled with a number of its own.

    Expanded from one element, which keeps the files small.
    """
    state = {}
    for key, shape in json.loads(SHAPES.read_text()).items():
        if key.startswith(('ocr.cls_head.', 'ocr.aux_head.2.')):
            shape = [num_classes, *shape[1:]]
        if key.startswith('scale_attn.') and not with_attn:
            continue
        number = zlib.crc32(key.encode()) / 2**32
        if key.endswith('num_batches_tracked'):
            number = int(number * 1000)
        state[key] = torch.tensor(number).expand(shape)
    return state


def save(path, state, **entries):
    """Write a file as the authors' train.py does."""
    state = {f'module.{key}': value for key, value in state.items()}
    entries = {'arch': 'ocrnet.HRNet_Mscale', **entries}
    torch.save(
        dict(
            epoch=7,
            num_classes=19,
            state_dict=state,
            optimizer=dict(state={}, param_groups=[]),
            mean_iu=np.float64(0.8692),
            command='--arch ocrnet.HRNet_Mscale',
            **entries,
        ),
        path,
    )
    return path


def build(config, num_classes=None):
    cfg = Config.fromfile(config).model
    cfg.pretrained = None
    if num_classes is not None:
        cfg.decode_head.num_classes = num_classes
    return MODELS.build(cfg)


@pytest.fixture(scope='module')
def files(convert, tmp_path_factory):
    """A file of the authors and what becomes of it; not to be changed."""
    folder = tmp_path_factory.mktemp('nvidia')
    src = save(folder / 'src.pth', their_state())
    dst = folder / 'new' / 'dst.pth'
    assert convert(src, dst) == 0
    return src, dst


@pytest.fixture
def dst(tmp_path):
    return tmp_path / 'new' / 'dst.pth'


def test_converts_the_network_with_attention(files):
    """Which entry is which is covered by the golden values."""
    _, dst = files
    checkpoint = torch.load(dst, weights_only=True)
    state, theirs = checkpoint['state_dict'], their_state()
    assert len(state) == 1901  # two biases less
    # Biases before a batch norm are folded into its mean.
    for key, layer in (
        ('seg_head.0.convs.0', 'ocr.aux_head'),
        ('seg_head.1.bottleneck', 'ocr.conv3x3_ocr'),
    ):
        bias = theirs[f'{layer}.0.bias']
        expected = theirs[f'{layer}.1.0.running_mean'] - bias
        found = state[f'decode_head.{key}.bn.running_mean']
        assert torch.equal(found, expected)
    meta = checkpoint['meta']
    assert meta['source_arch'] == 'ocrnet.HRNet_Mscale'
    assert meta['source_epoch'] == 7
    assert meta['source_mean_iu'] == 0.8692
    assert meta['dataset_meta']['classes'][:2] == ['road', 'sidewalk']
    assert len(meta['dataset_meta']['palette']) == 19
    # mmengine takes it strictly.
    load_checkpoint(build(CONFIG), str(dst), map_location='cpu', strict=True)


@pytest.mark.parametrize('with_attn', [True, False])
def test_there_and_back(convert, tmp_path, with_attn, equal):
    theirs = their_state(with_attn=with_attn)
    first, back, again = (tmp_path / f'{name}.pth' for name in 'abc')
    assert convert(save(tmp_path / 'src.pth', theirs), first) == 0
    assert convert(first, back, '--reverse') == 0
    assert convert(back, again) == 0
    found = torch.load(back, weights_only=True)
    suffix = '_Mscale' if with_attn else ''
    assert found['arch'] == f'ocrnet.HRNet{suffix}'
    assert found['num_classes'] == 19
    for layer in ('ocr.aux_head', 'ocr.conv3x3_ocr'):
        bias, mean = f'{layer}.0.bias', f'{layer}.1.0.running_mean'
        # What counts is mean - bias, and it stays.
        theirs[mean] = theirs[mean] - theirs[bias]
        theirs[bias] = torch.zeros_like(theirs[bias])
    expected = {f'module.{key}': value for key, value in theirs.items()}
    assert equal(found['state_dict'], expected)
    first, again = (torch.load(p, weights_only=True) for p in (first, again))
    assert equal(first['state_dict'], again['state_dict'])


def test_old_names_of_the_attention_branch(convert, files, tmp_path, equal):
    theirs = their_state()
    for name, index in OLD_ATTN_NAMES.items():
        for key in [k for k in theirs if k.startswith(f'scale_attn.{name}.')]:
            theirs[key.replace(name, str(index))] = theirs.pop(key)
    assert 'scale_attn.6.weight' in theirs
    dst = tmp_path / 'dst.pth'
    assert convert(save(tmp_path / 'old.pth', theirs), dst) == 0
    found, expected = (
        torch.load(path, weights_only=True)['state_dict']
        for path in (dst, files[1])
    )
    assert equal(found, expected)


def test_config_in_the_result_builds_the_model(convert, tmp_path, dst):
    # A bare state dict, too.
    torch.save(their_state(num_classes=7), tmp_path / 'src.pth')
    assert convert(tmp_path / 'src.pth', dst) == 0
    meta = torch.load(dst, weights_only=True)['meta']
    cfg = Config.fromstring(meta['cfg'], file_format='.py').model
    assert cfg.decode_head.num_classes == 7
    assert 'dataset_meta' not in meta  # 7 classes of what?


def test_single_scale_network_leaves_the_attention_initial(
    convert, tmp_path, dst, capsys
):
    theirs = their_state(num_classes=65, with_attn=False)
    src = save(tmp_path / 'src.pth', theirs, arch='ocrnet.HRNet')
    assert convert(src, dst) == 0
    assert 'no attention branch' in capsys.readouterr().out
    checkpoint = torch.load(dst, weights_only=True)
    classes = checkpoint['meta']['dataset_meta']['classes']
    assert len(classes) == 65
    assert 'Unlabeled' not in classes
    model = build(CONFIG, num_classes=65)
    found = model.load_state_dict(checkpoint['state_dict'], strict=False)
    assert found.missing_keys
    assert all('.scale_attn.' in key for key in found.missing_keys)
    assert not found.unexpected_keys


def test_layout_of_mmsegs_own_ocrnet(convert, files, tmp_path, dst, capsys):
    src, _ = files
    assert convert(src, dst, '--layout', 'ocrnet', '--verbose') == 0
    said = capsys.readouterr().out
    assert 'all 1903 entries used, none missing' in said
    assert 'left out' in said
    assert (
        'ocr.cls_head.bias -> decode_head.seg_head.1.conv_seg.bias\n' in said
    )
    model = build(STOCK_OCRNET)
    load_checkpoint(model, str(dst), map_location='cpu', strict=True)
    expected = their_state()['ocr.cls_head.weight']
    assert torch.equal(model.decode_head[1].conv_seg.weight, expected)
    # It also finds its way back.
    back = tmp_path / 'back.pth'
    assert convert(dst, back, '--reverse') == 0
    assert len(torch.load(back)['state_dict']) == 1890


@pytest.fixture
def fails(convert, capsys):
    """Return a function that fails to convert, and gives the message."""

    def run(src, dst, *options):
        assert convert(src, dst, *options) == 1
        message = capsys.readouterr().err
        assert message.startswith('error: ')
        assert 'nothing was written' in message
        assert not dst.exists()
        return message

    return run


@pytest.mark.fault(
    "keys of the authors' checkpoint that lack or do not fit",
    'all are listed; nothing is written',
)
def test_lists_all_keys_that_do_not_fit(fails, tmp_path, dst):
    state = their_state()
    del state['backbone.bn1.bias'], state['ocr.conv3x3_ocr.0.bias']
    state['backbone.extra.weight'] = torch.ones(1)
    state['scale_attn.0.weight'] = state['scale_attn.conv0.weight']
    state['backbone.conv1.weight'] = torch.ones(32, 3, 3, 3)
    message = fails(save(tmp_path / 's.pth', state), dst)
    for text in (
        'missing (2):\n  backbone.bn1.bias\n  ocr.conv3x3_ocr.0.bias',
        'left over (2):\n  backbone.extra.weight\n  scale_attn.0.weight',
        'wrong shape (1):\n  backbone.conv1.weight: (32, 3, 3, 3), expected '
        '(64, 3, 3, 3)',
    ):
        assert text in message


@pytest.mark.fault(
    'a file of another architecture, or none, for the converter',
    'refused, with its path; the source stays',
)
def test_other_files_are_refused(convert, fails, files, tmp_path, dst, capsys):
    removed = ('scale_attn.conv1.', 'scale_attn.bn1.')
    theirs = their_state()
    without_3x3 = {
        k: v for k, v in theirs.items() if not k.startswith(removed)
    }
    deeplab = dict(arch='deepv3', state_dict={'a': torch.ones(1)})
    path = tmp_path / 'src.pth'
    for content, text in (
        ([1, 2], 'holds no weights'),
        ({'ocr.cls_head.weight': torch.ones(19), 'a': 'b'}, 'a is no tensor'),
        (without_3x3, '--mscale_no3x3'),
        (deeplab, 'found architecture deepv3, 1 entries, the first a;'),
    ):
        torch.save(content, path)
        message = fails(path, dst)
        assert text in message
        assert str(path) in message
    src, converted = files
    assert 'give --reverse' in fails(converted, dst)
    assert 'omit --reverse' in fails(src, dst, '--reverse')
    assert 'none.pth: there is no such' in fails('none.pth', dst)
    before = src.read_bytes()
    assert convert(src, src) == 1
    assert 'is the source' in capsys.readouterr().err
    assert src.read_bytes() == before
