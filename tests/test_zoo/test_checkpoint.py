"""Every weight of a checkpoint is accounted for."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner.checkpoint import load_state_dict
from mmseg.registry import MODELS
from test_zoo.small_models import make_tiny

from hmsa_mmseg.zoo import Conversion
from hmsa_mmseg.zoo.checkpoint import check_checkpoint
from hmsa_mmseg.zoo.own_data import set_num_classes

OCRNET = 'ocrnet_hr18_4xb4-80k_ade20k-512x512'
FCN = 'fcn_r18-d8_4xb2-80k_cityscapes-769x769'
KNET = 'knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512'


@pytest.fixture
def small(zoo_config, converted, tmp_path):
    """Return a function that makes a small stock model's file and config."""

    def make(name):
        stock = MODELS.build(ConfigDict(make_tiny(zoo_config(name).model)))
        state = stock.state_dict()
        path = tmp_path / 'stock.pth'
        torch.save(dict(state_dict=state, meta=dict(epoch=1)), path)
        model = make_tiny(converted(name).cfg.model)
        cfg = Config(dict(model=model))
        return SimpleNamespace(state=state, path=path, cfg=cfg)

    return make


@pytest.mark.parametrize('name', [OCRNET, FCN])
def test_all_weights_are_used(name, small):
    case = small(name)
    report = check_checkpoint(case.cfg, case.path)
    assert len(report.used) == len(case.state)
    assert report.num_values == sum(x.numel() for x in case.state.values())
    model = MODELS.build(copy.deepcopy(case.cfg.model))
    assert {key for key in model.state_dict() if 'scale_attn' in key} == {
        *report.new,
        *(f'decode_head.scale_attn.bn{i}.num_batches_tracked' for i in (0, 1)),
    }
    assert report.other_classes == []
    # Of parallel training, and bare.
    bare = {f'module.{key}': value for key, value in case.state.items()}
    torch.save(bare, case.path)
    assert check_checkpoint(case.cfg, case.path) == report


@pytest.mark.fault(
    'a zoo checkpoint of another architecture',
    'refused, with the keys',
)
def test_another_architecture_names_the_keys(small):
    case, key = small(FCN), 'backbone.layer1.0.conv1.weight'
    value = case.state[key]
    left = {k: v for k, v in case.state.items() if k != key}
    for state, match in (
        (left, rf'it lacks {key}; expected'),
        ({**case.state, 'neck.weight': value}, r'it holds neck\.weight'),
        ({**case.state, key: value[:1]}, rf'size mismatch for {key}'),
    ):
        torch.save(dict(state_dict=state), case.path)
        with pytest.raises(ValueError, match=match):
            check_checkpoint(case.cfg, case.path)


@pytest.mark.parametrize('name', [OCRNET, KNET])
def test_another_number_of_classes(name, small):
    case = small(name)
    set_num_classes(Conversion(case.cfg, {}), 7)
    with pytest.raises(ValueError, match=r'holds \d+ classes \(decode_head'):
        check_checkpoint(case.cfg, case.path)
    case.cfg.model.decode_head.reinit_classifier = True
    report = check_checkpoint(case.cfg, case.path, reinit_classifier=True)
    assert all('scale_attn' in key for key in report.new)
    model = MODELS.build(copy.deepcopy(case.cfg.model))
    shapes = {key: x.shape for key, x in model.state_dict().items()}
    stock = {
        key.replace('decode_head.', 'decode_head.seg_head.'): x.shape
        for key, x in case.state.items()
    }
    assert len(report.used) == len(case.state) - len(report.other_classes)
    # Exactly what differs in its shape.
    assert report.other_classes == sorted(
        key for key in stock if shapes[key] != stock[key]
    )


def test_the_zoo_s_own_model(small, zoo_config):
    case = small(FCN)
    model = copy.deepcopy(make_tiny(zoo_config(FCN).model))
    cfg = Config(dict(model=model))
    report = check_checkpoint(cfg, case.path)
    assert sorted(report.used) == sorted(case.state)
    assert report.new == report.other_classes == []
    assert 'to be trained' not in report.describe(case.path)
    set_num_classes(Conversion(cfg, {}), 7)
    with pytest.raises(ValueError, match='size mismatch for'):
        check_checkpoint(cfg, case.path)
    report = check_checkpoint(cfg, case.path, reinit_classifier=True)
    # What mmengine, which does not fail, leaves as it was.
    model = MODELS.build(copy.deepcopy(cfg.model))
    load_state_dict(model, case.state, strict=False)
    loaded = model.state_dict()
    assert report.other_classes == sorted(
        key for key in loaded if loaded[key].shape != case.state[key].shape
    )
    assert 'decode_head' in report.other_classes[-1]
    assert all(torch.equal(loaded[k], case.state[k]) for k in report.used)


class Evil:
    def __reduce__(self):
        return print, ('ran',)


@pytest.mark.fault(
    'a zoo checkpoint that is damaged or holds a program',
    'refused, with its path',
)
def test_files_that_are_no_checkpoints(small, tmp_path):
    case = small(FCN)
    with pytest.raises(OSError, match='missing'):
        check_checkpoint(case.cfg, tmp_path / 'missing.pth')
    case.path.write_bytes(b'no file of torch.save')
    with pytest.raises(ValueError, match=r'cannot load .*stock\.pth'):
        check_checkpoint(case.cfg, case.path)
    for content, match in (
        (dict(epoch=3), r'stock\.pth holds no weights'),
        (dict(state_dict=case.state, meta=Evil()), 'could run code'),
    ):
        torch.save(content, case.path)
        with pytest.raises(ValueError, match=match):
            check_checkpoint(case.cfg, case.path)
