"""Checkpoints of mmseg's own models, and of version 0.1, load as they are.

`checkpoint_v0.1.pth` was written by that version after one training step of
the model of `config_v0.1.py`. Its `meta` holds an image, uint8, and the logits
that version 0.1 gave for it, in evaluation mode.
"""

import logging
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.apis import init_model
from mmseg.registry import MODELS
from test_models.cases import AUX, build_head, sample

DATA = Path(__file__).parents[2] / 'data'
CHECKPOINT = DATA / 'checkpoint_v0.1.pth'
NAMES = ['hrnet_fcn-ocr', 'resnet_deeplabv3plus', 'mit_segformer']
each_model = pytest.mark.parametrize('zoo_case', NAMES, indirect=True)


def with_aux(zoo_case):
    """Give the model an auxiliary head where the zoo's has one."""
    aux = dict(AUX, in_channels=32, in_index=2)
    is_resnet = zoo_case['backbone']['type'] == 'ResNetV1c'
    return dict(zoo_case, auxiliary_head=aux) if is_resnet else zoo_case


def build_stock(zoo_case):
    seg_head = zoo_case['seg_head']
    is_cascade = isinstance(seg_head, list)
    cfg = dict(
        type='CascadeEncoderDecoder' if is_cascade else 'EncoderDecoder',
        backbone=zoo_case['backbone'],
        decode_head=seg_head,
        auxiliary_head=zoo_case.get('auxiliary_head'),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    if is_cascade:
        cfg['num_stages'] = len(seg_head)
    return MODELS.build(ConfigDict(cfg)).eval()


@pytest.fixture
def load_and_log(tmp_path):
    """Save a model, load it into another, return what was logged."""

    def run(source, model, name='stock.pth'):
        found = []
        handler = logging.Handler()
        handler.emit = lambda record: found.append(record.getMessage())
        logger = MMLogger.get_instance(uuid4().hex)
        logger.addHandler(handler)
        torch.save(dict(state_dict=source.state_dict()), tmp_path / name)
        model.partial_weights = True  # As a training with its hook.
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
def test_only_attention_is_missing(
    zoo_case, build_tiny, make_batch, load_and_log
):
    zoo_case = with_aux(zoo_case)
    stock, model = build_stock(zoo_case), build_tiny(**zoo_case)
    mapped, warning = load_and_log(stock, model)
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
def test_own_checkpoints_are_left_alone(zoo_case, build_tiny, load_and_log):
    source, model = build_tiny(**zoo_case), build_tiny(**zoo_case)
    assert load_and_log(source, model) == []
    state = dict(source.state_dict())
    found = model.state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state)
    # Foreign keys beside own ones are reported as they are.
    state['decode_head.other_attn.weight'] = torch.zeros(1)
    result = model.load_state_dict(state, strict=False)
    assert result.unexpected_keys == ['decode_head.other_attn.weight']


@pytest.mark.parametrize('zoo_case', NAMES[:1], indirect=True)
def test_a_cascade_does_not_fit_a_single_head(zoo_case, build_tiny):
    stock = build_stock(zoo_case)
    alone = dict(zoo_case, seg_head=zoo_case['seg_head'][0])
    result = build_tiny(**alone).load_state_dict(stock.state_dict(), False)
    assert 'decode_head.seg_head.1.conv_seg.weight' in result.unexpected_keys
    assert 'decode_head.seg_head.conv_seg.weight' in result.missing_keys


@pytest.fixture
def cfg():
    return Config.fromfile(DATA / 'config_v0.1.py')


def as_batch(image, label=None):
    one = sample(tuple(image.shape[1:]))
    if label is not None:
        one.gt_sem_seg = PixelData(data=label)
    return dict(inputs=[image], data_samples=[one])


@pytest.mark.parametrize('fast', [True, False])
def test_version_0_1_gave_the_same_logits(fast, cfg, load):
    cfg.model.decode_head.fast = fast
    model = init_model(cfg, str(CHECKPOINT), device='cpu')
    assert list(model.dataset_meta['classes']) == ['a', 'b', 'c', 'd']
    checkpoint = load(CHECKPOINT)
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    meta = checkpoint['meta']
    with torch.no_grad():
        [result] = model.test_step(as_batch(meta['image']))
    assert meta['seg_logits'].std() > 1
    torch.testing.assert_close(
        result.seg_logits.data, meta['seg_logits'][0], rtol=0, atol=1e-5
    )
    classes = meta['seg_logits'].argmax(dim=1)
    assert torch.equal(result.pred_sem_seg.data, classes)


@pytest.mark.fault(
    'weights of version 0.1 are trained further',
    'they load, and the loss falls',
)
def test_training_of_version_0_1_goes_on(cfg, load):
    model = MODELS.build(cfg.model).train()
    checkpoint = load(CHECKPOINT)
    model.load_state_dict(checkpoint['state_dict'])
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    image = checkpoint['meta']['image']
    label = torch.randint(0, 4, (1, 8, 12))
    label = label.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    logs = [model.train_step(as_batch(image, label), optim) for _ in range(10)]
    assert {key for key in logs[0] if 'loss_' in key} == {
        'aux.loss_bce',
        'decode.loss_rmi',
        'scale_0.5.loss_bce',
        'scale_1.loss_bce',
    }
    assert logs[-1]['loss'] < logs[0]['loss'] - 0.1
