"""Checkpoints of mmseg's own models load as they are."""

import logging
from uuid import uuid4

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from test_models.cases import build_head

AUX = dict(type='FCNHead', in_channels=32, in_index=2, channels=8)
AUX.update(num_convs=1, num_classes=5, norm_cfg=dict(type='BN'))
NAMES = ['hrnet_fcn-ocr', 'resnet_deeplabv3plus', 'mit_segformer']
each_model = pytest.mark.parametrize('zoo_case', NAMES, indirect=True)


def with_aux(zoo_case):
    """Give the model an auxiliary head where the zoo's has one."""
    is_resnet = zoo_case['backbone']['type'] == 'ResNetV1c'
    return dict(zoo_case, auxiliary_head=dict(AUX)) if is_resnet else zoo_case


def build_stock(zoo_case, num_classes=5):
    seg_head = zoo_case['seg_head']
    is_cascade = isinstance(seg_head, list)
    cfg = dict(
        type='CascadeEncoderDecoder' if is_cascade else 'EncoderDecoder',
        backbone=zoo_case['backbone'],
        decode_head=[dict(h, num_classes=num_classes) for h in seg_head]
        if is_cascade
        else dict(seg_head, num_classes=num_classes),
        auxiliary_head=zoo_case.get('auxiliary_head'),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    if is_cascade:
        cfg['num_stages'] = len(seg_head)
    return MODELS.build(ConfigDict(cfg)).eval()


@pytest.fixture
def load(tmp_path):
    """Save a model, load it into another, return what was logged."""

    def run(source, model, name='stock.pth'):
        found = []
        handler = logging.Handler()
        handler.emit = lambda record: found.append(record.getMessage())
        logger = MMLogger.get_instance(uuid4().hex)
        logger.addHandler(handler)
        torch.save(dict(state_dict=source.state_dict()), tmp_path / name)
        load_checkpoint(model, str(tmp_path / name), 'cpu', logger=logger)
        assert found.pop(0).startswith('Loads checkpoint')
        return found

    return run


def assert_holds(model, stock):
    own = model.state_dict()
    for key, value in stock.state_dict().items():
        key = key.replace('decode_head.', 'decode_head.seg_head.')
        assert torch.equal(own[key], value), key


@each_model
def test_only_attention_is_missing(zoo_case, build_tiny, make_batch, load):
    zoo_case = with_aux(zoo_case)
    stock, model = build_stock(zoo_case), build_tiny(**zoo_case)
    mapped, warning = load(stock, model)
    assert_holds(model, stock)
    count = sum(key.startswith('decode_head') for key in stock.state_dict())
    assert f'{count} keys decode_head.* were read as' in mapped
    assert 'unexpected' not in warning
    missing = warning.split('state_dict: ')[1].strip().split(', ')
    assert sorted(missing) == sorted(
        key
        for key in model.state_dict()
        if key.startswith('decode_head.scale_attn.')
        and not key.endswith('num_batches_tracked')
    )
    inputs, samples = make_batch(size=(64, 96))
    model.test_cfg = ConfigDict(mode='whole', scales=(1.0,))
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval().encode_decode(inputs),
            stock.encode_decode(inputs, [s.metainfo for s in samples]),
            rtol=0,
            atol=1e-5,
        )


@pytest.mark.parametrize('head', ['attention-to-scale', 'average'])
@pytest.mark.parametrize('zoo_case', NAMES[:1], indirect=True)
def test_other_heads_take_them_by_plain_torch(head, zoo_case, tiny_model_cfg):
    scales = (0.5, 1.0, 2.0)
    model = build_head(tiny_model_cfg, head, **zoo_case, train_scales=scales)
    stock = build_stock(zoo_case)
    missing, unexpected = model.load_state_dict(
        stock.state_dict(), strict=False
    )
    assert_holds(model, stock)
    assert unexpected == []
    others = {key.split('.')[1] for key in missing}
    assert others == ({'scale_attn'} if head != 'average' else set())


@pytest.mark.parametrize('zoo_case', NAMES[:2], indirect=True)
def test_own_checkpoints_are_left_alone(zoo_case, build_tiny, load):
    source, model = build_tiny(**zoo_case), build_tiny(**zoo_case)
    assert load(source, model) == []
    state = dict(source.state_dict())
    found = model.state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state)
    # Foreign keys beside own ones are reported as they are.
    state['decode_head.other_attn.weight'] = torch.zeros(1)
    result = model.load_state_dict(state, strict=False)
    assert result.unexpected_keys == ['decode_head.other_attn.weight']


@each_model
def test_number_of_classes_is_checked(zoo_case, build_tiny):
    stock = build_stock(zoo_case, num_classes=7)
    name = r'decode_head\.seg_head\S*conv_seg\.weight'
    with pytest.raises(ValueError, match=rf'holds 7 classes \({name}\)'):
        build_tiny(**zoo_case).load_state_dict(stock.state_dict(), False)
    model = build_tiny(**zoo_case, decode_head=dict(reinit_classifier=True))
    missing = model.load_state_dict(stock.state_dict(), False).missing_keys
    assert all('conv_seg' in key or 'scale_attn' in key for key in missing)
    assert any('conv_seg' in key for key in missing)


@pytest.mark.parametrize('zoo_case', NAMES[:1], indirect=True)
def test_a_cascade_does_not_fit_a_single_head(zoo_case, build_tiny):
    stock = build_stock(zoo_case)
    alone = dict(zoo_case, seg_head=zoo_case['seg_head'][0])
    result = build_tiny(**alone).load_state_dict(stock.state_dict(), False)
    assert 'decode_head.seg_head.1.conv_seg.weight' in result.unexpected_keys
    assert 'decode_head.seg_head.conv_seg.weight' in result.missing_keys
