import errno
import importlib.util
import json
import os
import subprocess
import sys
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
SCRIPT = ROOT / 'tools/model_converters/nvidia2mmseg.py'
CONFIG = ROOT.joinpath(
    'configs/hmsa',
    'hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py',
)
SHAPES = ROOT / 'tests/data/golden/state_dict_shapes_hrnet_mscale_c19.json'
STOCK_OCRNET = Path(mmseg.__file__).parent.joinpath(
    '.mim/configs/ocrnet/ocrnet_hr48_4xb2-80k_cityscapes-512x1024.py'
)


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('nvidia2mmseg', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    return str(path)


def build(config, num_classes=None):
    cfg = Config.fromfile(config).model
    cfg.pretrained = None
    if num_classes is not None:
        cfg.decode_head.num_classes = num_classes
    return MODELS.build(cfg)


@pytest.fixture
def src(tmp_path):
    return save(tmp_path / 'src.pth', their_state())


@pytest.fixture
def dst(tmp_path):
    return str(tmp_path / 'new' / 'dst.pth')


def test_converts_the_network_with_attention(tool, src, dst, capsys):
    assert tool.main([src, dst]) == 0
    assert 'all 1903 entries used, none missing' in capsys.readouterr().out

    checkpoint = torch.load(dst, weights_only=True)
    state, theirs = checkpoint['state_dict'], their_state()
    assert len(state) == 1901  # two biases less
    ours = 'decode_head.seg_head.1.conv_seg.weight'
    assert torch.equal(state[ours], theirs['ocr.cls_head.weight'])

    meta = checkpoint['meta']
    assert meta['source_arch'] == 'ocrnet.HRNet_Mscale'
    assert meta['source_epoch'] == 7
    assert meta['source_mean_iu'] == 0.8692
    assert meta['dataset_meta']['classes'][:2] == ['road', 'sidewalk']
    assert len(meta['dataset_meta']['palette']) == 19


def test_stock_loader_takes_the_result_strictly(tool, src, dst):
    tool.main([src, dst])
    model = build(CONFIG)
    load_checkpoint(model, dst, map_location='cpu', strict=True)
    weight = model.decode_head.scale_attn.conv1.weight
    assert torch.equal(weight, their_state()['scale_attn.conv1.weight'])


def test_config_in_the_result_builds_the_model(tool, tmp_path, dst):
    src = save(tmp_path / 'src.pth', their_state(num_classes=7))
    tool.main([src, dst])
    meta = torch.load(dst, weights_only=True)['meta']
    cfg = Config.fromstring(meta['cfg'], file_format='.py').model
    assert cfg.decode_head.num_classes == 7
    assert 'dataset_meta' not in meta  # 7 classes of what?


def test_single_scale_network_leaves_the_attention_initial(
    tool, tmp_path, dst, capsys
):
    theirs = their_state(num_classes=65, with_attn=False)
    src = save(tmp_path / 'src.pth', theirs, arch='ocrnet.HRNet')
    assert tool.main([src, dst]) == 0
    assert 'no attention branch' in capsys.readouterr().out

    checkpoint = torch.load(dst, weights_only=True)
    classes = checkpoint['meta']['dataset_meta']['classes']
    assert len(classes) == 65
    assert 'Unlabeled' not in classes
    model = build(CONFIG, num_classes=65)
    absent = model.state_dict().keys() - checkpoint['state_dict'].keys()
    assert absent
    assert all(key.startswith('decode_head.scale_attn.') for key in absent)
    incompatible = model.load_state_dict(
        checkpoint['state_dict'], strict=False
    )
    assert not incompatible.unexpected_keys


@pytest.mark.parametrize('with_attn', [True, False])
def test_layout_of_mmsegs_own_ocrnet(tool, tmp_path, dst, capsys, with_attn):
    theirs = their_state(with_attn=with_attn)
    src = save(tmp_path / 'src.pth', theirs)
    assert tool.main([src, dst, '--layout', 'ocrnet']) == 0
    assert ('left out' in capsys.readouterr().out) == with_attn
    model = build(STOCK_OCRNET)
    load_checkpoint(model, dst, map_location='cpu', strict=True)
    assert torch.equal(
        model.decode_head[1].conv_seg.weight, theirs['ocr.cls_head.weight']
    )

    # It also finds its way back.
    back = tmp_path / 'back.pth'
    assert tool.main([dst, str(back), '--reverse']) == 0
    assert torch.load(back)['arch'] == 'ocrnet.HRNet'
    assert len(torch.load(back)['state_dict']) == 1890


def test_bare_state_dict(tool, tmp_path, dst):
    path = tmp_path / 'bare.pth'
    torch.save(their_state(), path)
    assert tool.main([str(path), dst]) == 0
    assert len(torch.load(dst)['state_dict']) == 1901


def fails(tool, argv, capsys):
    """Run a conversion that fails, and return its error message."""
    assert tool.main(argv) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith('error: ')
    assert 'nothing was written' in captured.err
    assert not Path(argv[1]).exists()
    return captured.err


def test_lists_all_keys_that_do_not_fit(tool, tmp_path, dst, capsys):
    state = their_state()
    del state['backbone.bn1.bias'], state['ocr.conv3x3_ocr.0.bias']
    state['backbone.extra.weight'] = torch.ones(1)
    state['scale_attn.0.weight'] = state['scale_attn.conv0.weight']
    state['backbone.conv1.weight'] = torch.ones(32, 3, 3, 3)
    message = fails(tool, [save(tmp_path / 's.pth', state), dst], capsys)
    assert 'missing (2):\n  backbone.bn1.bias\n  ocr.conv3x3_ocr.0.bias' in (
        message
    )
    left_over = (
        'left over (2):\n  backbone.extra.weight\n  scale_attn.0.weight'
    )
    assert left_over in message
    assert (
        'wrong shape (1):\n  backbone.conv1.weight: (32, 3, 3, 3), '
        'expected (64, 3, 3, 3)'
    ) in message


def test_mscale_no3x3_is_named(tool, tmp_path, dst, capsys):
    state = their_state()
    for key in list(state):
        if key.startswith(('scale_attn.conv1.', 'scale_attn.bn1.')):
            del state[key]
    message = fails(tool, [save(tmp_path / 's.pth', state), dst], capsys)
    assert '--mscale_no3x3' in message
    assert 'expected two' in message


def test_another_architecture_is_named(tool, tmp_path, dst, capsys):
    state = {'mod1.conv1.weight': torch.ones(1), 'aspp.w': torch.ones(1)}
    src = save(tmp_path / 's.pth', state, arch='deepv3.DeepV3PlusW38')
    message = fails(tool, [src, dst], capsys)
    assert 'found architecture deepv3.DeepV3PlusW38, 2 entries' in message
    assert 'mod1.conv1.weight, aspp.w' in message
    assert 'expected the authors' in message


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        ({'conv1.weight': torch.ones(1)}, 'first conv1.weight; expected'),
        ([1, 2], 'expected a state dict'),
        ({}, 'expected a state dict'),
        ({'ocr.cls_head.weight': torch.ones(19), 'a': 'b'}, 'a is no tensor'),
    ],
)
def test_other_files_are_refused(tool, tmp_path, dst, capsys, content, match):
    path = tmp_path / 'src.pth'
    torch.save(content, path)
    message = fails(tool, [str(path), dst], capsys)
    assert match in message
    assert str(path) in message


def test_wrong_direction_is_named(tool, tmp_path, src, dst, capsys):
    tool.main([src, dst])
    other = str(tmp_path / 'other.pth')
    assert 'give --reverse' in fails(tool, [dst, other], capsys)
    message = fails(tool, [src, other, '--reverse'], capsys)
    assert 'omit --reverse' in message


def test_files_that_cannot_be_read(tool, tmp_path, src, dst, capsys):
    assert 'No such file' in fails(tool, ['none.pth', dst], capsys)
    data = Path(src).read_bytes()
    Path(src).write_bytes(data[: len(data) // 2])
    assert 'damaged' in fails(tool, [src, dst], capsys)


def test_source_is_not_overwritten(tool, src, capsys):
    before = Path(src).read_bytes()
    assert tool.main([src, src]) == 1
    assert 'is the source' in capsys.readouterr().err
    assert Path(src).read_bytes() == before


class _Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_file_does_not_run(tool, tmp_path, dst, capsys):
    touched = tmp_path / 'touched'
    payload = _Payload(str(touched))
    src = save(tmp_path / 's.pth', their_state(), payload=payload)
    message = fails(tool, [src, dst], capsys)
    assert 'mkdir' in message
    assert 'could run code' in message
    assert not touched.exists()
    torch.load(src, weights_only=False)
    assert touched.exists()  # so the payload does what it should


def test_a_failure_while_writing_keeps_the_old_file(
    tool, src, dst, monkeypatch, capsys
):
    Path(dst).parent.mkdir()
    Path(dst).write_bytes(b'old')

    def no_space(fd):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', no_space)
    assert tool.main([src, dst]) == 1
    assert 'No space left on device' in capsys.readouterr().err
    assert Path(dst).read_bytes() == b'old'
    assert os.listdir(Path(dst).parent) == ['dst.pth']


def test_reverse_makes_a_file_of_the_authors(tool, tmp_path, src, dst):
    back = str(tmp_path / 'back.pth')
    assert tool.main([src, dst]) == 0
    assert tool.main([dst, back, '--reverse']) == 0
    found = torch.load(back, weights_only=True)
    assert found['arch'] == 'ocrnet.HRNet_Mscale'
    assert found['num_classes'] == 19
    expected = {f'module.{k}': v.shape for k, v in their_state().items()}
    shapes = {key: value.shape for key, value in found['state_dict'].items()}
    assert shapes == expected


def test_reverse_refuses_a_model_of_another_size(tool, tmp_path, capsys):
    cfg = Config.fromfile(
        ROOT / 'configs/hmsa/hmsa_hr18_ocr_4xb2-160k_cityscapes-512x1024.py'
    ).model
    cfg.pretrained = None
    src = tmp_path / 'hr18.pth'
    torch.save(dict(state_dict=MODELS.build(cfg).state_dict()), src)
    message = fails(
        tool, [str(src), str(tmp_path / 'dst.pth'), '--reverse'], capsys
    )
    assert (
        'backbone.transition1.0.0.weight: (18, 256, 3, 3), expected (48'
        in (message)
    )


def test_command_line(src, dst):
    env = dict(os.environ, OMP_NUM_THREADS='1')
    command = [sys.executable, str(SCRIPT), src, dst, '--verbose']
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, check=True
    )
    pair = 'ocr.cls_head.bias -> decode_head.seg_head.1.conv_seg.bias'
    assert pair in done.stdout
    folded = 'ocr.aux_head.0.bias -> subtracted from decode_head.seg_head.0'
    assert folded in done.stdout
    assert Path(dst).exists()
