"""Every family of the installed zoo: convert, train a step, predict."""

import copy
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from oracles.recorded_graph import RecordingOnCPU
from test_zoo.zoo_names import CONVERTED, REFUSED
from torch.nn.modules.batchnorm import _BatchNorm
from zoo_table import zoo_table

from hmsa_mmseg.models.utils import cuda_graph
from hmsa_mmseg.models.utils.cuda_graph import GraphCache
from hmsa_mmseg.zoo import (
    NotConvertible,
    convert,
    families,
    find_config,
    list_configs,
)
from hmsa_mmseg.zoo.writing import read_zoo_config

# What keeps a training step from a CUDA graph.
ACCURACY = '(accuracy.py:'  # mmseg's, where losses are not made in tiles
WITHOUT_GRAPH = {
    'cgnet_fcn_4xb4-60k_cityscapes-680x680': ACCURACY,
    'danet_r50-d8_4xb4-80k_ade20k-512x512': ACCURACY,
    'encnet_r50-d8_4xb4-80k_ade20k-512x512': ACCURACY,
    'fastfcn_r50-d32_jpu_enc_4xb4-80k_ade20k-512x512': ACCURACY,
    'knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512': ACCURACY,
    'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024': 'ohem_cross',
    'emanet_r50-d8_4xb2-80k_cityscapes-769x769': 'ema_module.bases',
    'fast_scnn_8xb4-160k_cityscapes-512x1024': '(cross_entropy_loss.py:',
    'pidnet-s_2xb6-120k_1024x1024-cityscapes': 'gt_edge_map',
    'stdc1_4xb12-80k_cityscapes-512x1024': 'ohem_pixel_sampler',
}
TABLE = Path(__file__).parents[2] / 'docs/zoo_families.md'


@pytest.fixture
def _psa_mask(monkeypatch):
    """Stand in for mmcv's compiled operator: any mask of its shape will do."""

    def collect(feats, *_):
        size = feats.shape[2:]
        mask = feats.mean(dim=1, keepdim=True)
        return mask.expand(-1, size[0] * size[1], -1, -1).contiguous()

    monkeypatch.setattr('mmcv.ops.psa_mask.psa_mask', collect)


@pytest.mark.usefixtures('_psa_mask')
@pytest.mark.parametrize('name', CONVERTED)
def test_train_a_step_and_predict(
    name, converted, build_small, make_small_batch
):
    cfg = converted(name).cfg
    package = cfg.model.backbone.type.split('.')[0]
    if package == 'mmpretrain' and find_spec(package) is None:
        assert cfg.custom_imports.imports == [
            'hmsa_mmseg',
            'mmpretrain.models',
        ]
        pytest.skip('needs mmpretrain')
    model = build_small(cfg)
    inputs, samples = make_small_batch(
        model, cfg.model.backbone.get('in_channels', 3)
    )
    losses, _ = model.parse_losses(model.train().loss(inputs, samples))
    losses.backward()
    assert losses.isfinite()
    for part in (model.backbone, model.decode_head.seg_head):
        grads = [p.grad for p in part.parameters() if p.grad is not None]
        assert any(grad.abs().sum() > 0 for grad in grads)
    attention = list(model.decode_head.scale_attn.parameters())
    assert all(p.grad.isfinite().all() for p in attention)
    assert all(p.grad.abs().sum() > 0 for p in attention)
    with torch.no_grad():
        (result,) = model.eval().predict(inputs[:1], samples[:1])
    logits = result.seg_logits.data
    assert logits.shape == (model.out_channels, 64, 64)
    assert logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.usefixtures('_psa_mask')
@pytest.mark.parametrize('name', CONVERTED)
def test_a_step_from_a_graph(
    name, converted, build_small, make_small_batch, monkeypatch
):
    """By the stand-in for CUDA, in three steps, to the last bit."""
    said = []
    monkeypatch.setattr(cuda_graph, '_warn', said.append)
    monkeypatch.setattr(GraphCache, 'recorder_type', RecordingOnCPU)
    cfg = converted(name).cfg
    if 'mmpretrain' in cfg.model.backbone.type and not find_spec('mmpretrain'):
        pytest.skip('needs mmpretrain')
    eager = build_small(cfg).train()
    graphed = copy.deepcopy(eager)
    graphed.train_cfg = {**graphed.train_cfg, 'cuda_graph': True}
    batch = make_small_batch(eager, cfg.model.backbone.get('in_channels', 3))
    for seed in range(3):
        for model in (eager, graphed):
            torch.manual_seed(seed)
            model.zero_grad()
            losses = model.loss(batch[0], copy.deepcopy(batch[1]))
            model.parse_losses(losses)[0].backward()
        params, others = eager.named_parameters(), graphed.parameters()
        for (key, param), other in zip(params, others):
            assert (param.grad is None) == (other.grad is None), key
            same = param.grad is None or torch.equal(param.grad, other.grad)
            assert same, key
        assert all(map(torch.equal, eager.buffers(), graphed.buffers()))
    why = WITHOUT_GRAPH.get(name)
    assert (why is None) == bool(graphed.training_graphs.graphs), said
    assert why is None or why in said[-1]


@pytest.mark.parametrize('name', REFUSED)
def test_refused(name, zoo_config):
    with pytest.raises(NotConvertible, match=REFUSED[name]):
        convert(zoo_config(name))


@pytest.mark.parametrize(
    'name',
    [
        # What differs most: cascades, own classifiers, other backbones, odd
        # heads.
        'ocrnet_hr18_4xb4-80k_ade20k-512x512',
        'knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512',
        'segmenter_vit-b_mask_8xb1-160k_ade20k-512x512',
        'beit-base_upernet_8xb2-160k_ade20k-640x640',
        'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024',
    ],
)
def test_one_scale_predicts_what_the_stock_model_does(
    name, zoo_config, converted, build_small, make_small_batch
):
    stock = build_small(zoo_config(name))
    model = build_small(converted(name).cfg)
    for module in stock.modules():
        if isinstance(module, _BatchNorm):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
    found = model.load_state_dict(stock.state_dict(), strict=False)
    assert found.unexpected_keys == []
    assert all('.scale_attn.' in key for key in found.missing_keys)
    model.test_cfg.scales = (1.0,)
    inputs, samples = make_small_batch(model)
    with torch.no_grad():
        expected = stock.eval().encode_decode(
            inputs, [sample.metainfo for sample in samples]
        )
        found = model.eval().encode_decode(inputs)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_table_holds_all_families():
    rows = re.findall(r'^\| (\w+) \| (\d+) \|', TABLE.read_text(), re.M)
    assert rows == [
        (name, str(len(list_configs(name)))) for name in families()
    ]
    # And so do the configs tested above.
    tested = {find_config(name).parent.name for name in (*CONVERTED, *REFUSED)}
    assert tested == set(families())


@pytest.mark.slow
def test_the_table_is_that_of_the_code():
    assert TABLE.read_text() == zoo_table()


def parts_of(path):
    """Family and types of the parts of a model."""

    def types(value):
        value = value if isinstance(value, (list, tuple)) else [value]
        return [one['type'] for one in value if one]

    model = read_zoo_config(path).model
    found = {('family', path.parent.name), ('segmentor', model.type)}
    for key in ('backbone', 'neck', 'decode_head', 'auxiliary_head'):
        found |= {(key, name) for name in types(model.get(key))}
    return found


@pytest.mark.slow
def test_every_kind_of_part_is_tested():
    tested = [find_config(name) for name in (*CONVERTED, *REFUSED)]
    parts = set().union(*map(parts_of, tested))
    every = set().union(*map(parts_of, list_configs()))
    assert every - parts == set()
