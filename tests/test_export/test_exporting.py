"""Exported files against the model, run without this package."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from hmsa_mmseg.export import (
    FORMATS,
    ExportError,
    exporting,
)
from hmsa_mmseg.export.graph import ExportGraph, Normalise
from hmsa_mmseg.models import prepare_for_inference

from .conftest import assert_same, logits_of, run_file

# At scale 0.5 no map of a network with stride 32 is a single pixel.
SIZE = (136, 200)
PLAIN = dict(mode='whole', scales=(0.5, 1.0))
SEG_HEAD = dict(
    type='FCNHead', in_channels=16, in_index=1, channels=8, num_convs=1
)


@pytest.mark.parametrize(
    'case',
    ['hrnet_fcn-ocr', 'resnet_deeplabv3plus', 'resnet_psp', 'mit_segformer'],
)
def test_networks_at_any_size(case, build_case, export):
    model = build_case(case, test_cfg=PLAIN)
    path, verified = export(model, size=SIZE, dynamic=True)
    assert [(one.batch, one.size) for one in verified] == [
        (1, SIZE),
        (2, SIZE),
        (1, (163, 179)),
    ]
    # None of the sizes it has been traced or verified with.
    for shape in ((3, 3, 135, 167), (1, 3, 96, 224)):
        image = torch.randn(shape)
        assert_same(run_file(path, image), logits_of(model, image))


@pytest.mark.parametrize(
    ('case', 'channels', 'scales', 'dynamic', 'size'),
    [
        ('resnet-stage_fcn', 8, (0.5, 1.0), True, (40, 56)),
        ('hrnet_fcn-ocr', 4, (1.0,), False, (64, 96)),
    ],
)
def test_torch_export(
    case, channels, scales, dynamic, size, build_case, export
):
    aux = dict(SEG_HEAD, in_channels=channels, in_index=0, num_classes=5)
    model = build_case(
        case,
        test_cfg=dict(mode='whole', scales=scales),
        auxiliary_head=aux,
    )
    path, _ = export(model, 'torch-export', size=size, dynamic=dynamic)
    image = torch.randn(3, 3, *((51, 37) if dynamic else size))
    program = torch.export.load(str(path))
    with torch.no_grad():
        found = program.module()(image)
    assert_same(found, logits_of(model, image))
    weights = [*program.state_dict]
    assert any('decode_head' in name for name in weights)
    assert not any('auxiliary_head' in name for name in weights)
    assert model.with_auxiliary_head


@pytest.mark.parametrize(
    'head',
    [
        dict(type='HierarchicalMSAttentionHead'),
        dict(type='AttentionToScaleHead', num_scales=4),
        dict(type='MultiScaleAverageHead'),
    ],
)
def test_ways_to_fuse_and_scales(head, tiny_model_cfg, export):
    scales = (0.25, 0.75, 1.5, 2.0)
    cfg = tiny_model_cfg(
        test_cfg=dict(mode='whole', scales=scales), decode_head=head
    )
    cfg['train_cfg'] = None
    if head['type'] == 'MultiScaleAverageHead':
        del cfg['decode_head']['attn_channels']
    model = MODELS.build(ConfigDict(cfg)).eval()
    nn.init.normal_(model.decode_head.seg_head.conv_seg.weight)
    path, _ = export(
        model, size=(96, 128), dynamic=True, scales=(2.0, 0.25, 0.75, 1.5)
    )
    image = torch.randn(2, 3, 101, 131)
    assert_same(run_file(path, image), logits_of(model, image))


def test_a_newer_opset(build_case, export):
    import onnx

    model = build_case('resnet-stage_fcn', test_cfg=PLAIN)
    path, _ = export(model, size=(40, 56), opset=21)
    opsets = {e.domain: e.version for e in onnx.load(path).opset_import}
    assert opsets[''] == 21
    image = torch.randn(3, 3, 40, 56)
    assert_same(run_file(path, image), logits_of(model, image))


@pytest.mark.parametrize(('align_corners', 'opset'), [(False, 20), (True, 11)])
def test_resizing_convention(align_corners, opset, build_case, export):
    seg_head = dict(SEG_HEAD, num_classes=5, align_corners=align_corners)
    model = build_case(seg_head=seg_head)
    path, _ = export(model, opset=opset, scales=(0.7, 1.0))
    image = torch.randn(1, 3, 64, 96)
    model.test_cfg.scales = (0.7, 1.0)
    expected = logits_of(model, image)
    assert_same(run_file(path, image), expected)
    # It makes a difference.
    model.decode_head.align_corners = not align_corners
    other = logits_of(model, image)
    assert (other - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize('format', FORMATS)
def test_classes_of_raw_images(format, build_case, export):
    model = build_case(test_cfg=PLAIN)
    path, _ = export(model, format, raw='uint8', classes=True, fold_bn=True)
    images = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    # mmseg's own preprocessing and results.
    meta = dict(img_shape=(64, 96), ori_shape=(64, 96))
    samples = [SegDataSample(metainfo=meta) for _ in images]
    data = dict(inputs=list(images), data_samples=samples)
    with torch.no_grad():
        results = model.test_step(data)
    expected = torch.stack([one.pred_sem_seg.data[0] for one in results])
    found = run_file(path, images)
    assert found.dtype == torch.uint8
    assert found.shape == (2, 64, 96)
    assert len(expected.unique()) > 1
    assert (found == expected).float().mean() > 0.999


def test_one_channel_and_its_threshold(build_case, export):
    seg_head = dict(
        SEG_HEAD,
        num_classes=2,
        out_channels=1,
        threshold=0.4,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    model = build_case(seg_head=seg_head)
    path, _ = export(model, classes=True)
    image = torch.randn(1, 3, 64, 96)
    expected = logits_of(model, image).sigmoid()[:, 0] > 0.4
    found = run_file(path, image)
    assert 0 < expected.float().mean() < 1
    assert ((found == 1) == expected).float().mean() > 0.999


@pytest.mark.parametrize(
    ('format', 'message'),
    [
        ('onnx', 'index: {axis} Got: {got} Expected: {expected}'),
        ('torch-export', r'image.size\(\)\[{axis}\] == {expected}$'),
    ],
)
def test_what_was_fixed_is_checked(format, message, build_case, export):
    path, verified = export(build_case(), format, batch=1, scales=(1.0,))
    assert [(one.batch, one.size) for one in verified] == [(1, (64, 96))]
    fixed = (1, 3, 64, 96)
    run_file(path, torch.randn(fixed))
    for axis, got in ((0, 2), (2, 72), (3, 104)):
        image = torch.randn(*fixed[:axis], got, *fixed[axis + 1 :])
        said = message.format(axis=axis, got=got, expected=fixed[axis])
        # Each runtime has errors of its own.
        with pytest.raises(Exception, match=said):
            run_file(path, image)


class _Brighter(ExportGraph):
    def forward(self, image):
        return super().forward(image * 1.1)


def test_what_is_proven(build_case, export, monkeypatch):
    def forward(self, image):
        return (image.float() - self.mean) / self.std

    with monkeypatch.context() as patch:
        patch.setattr(Normalise, 'forward', forward)
        with pytest.raises(ExportError, match='does not predict'):
            export(build_case(), raw='uint8')
    # Classes where there is only one.
    model = build_case()
    model.decode_head.seg_head.conv_seg.bias.data[2] += 30
    _, verified = export(model, classes=True)
    assert [one.num_found for one in verified] == [1, 1, 1, 1]
    is_logits = [one.difference is not None for one in verified]
    assert is_logits == [True, True, False, False]
    monkeypatch.setattr(exporting, 'ExportGraph', _Brighter)
    message = r'100.0000% of pixels .*logits differ .*\(1 class found'
    with pytest.raises(ExportError, match=message):
        export(model, classes=True)


def test_sync_bn(tiny_model_cfg, build_case, export):
    cfg = tiny_model_cfg()
    norm = dict(norm_cfg=dict(type='SyncBN', requires_grad=True))
    model = build_case(
        backbone={**cfg['backbone'], **norm},
        seg_head={**cfg['decode_head']['seg_head'], **norm},
        test_cfg=PLAIN,
    )
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    path, _ = export(model)
    image = torch.randn(2, 3, 64, 96)
    assert_same(run_file(path, image), logits_of(model, image))


def test_prepared_models_and_settings_for_testing(build_case, export):
    """Neither is carried over, and the model is left alone."""
    model = build_case(test_cfg=PLAIN)
    image = torch.randn(2, 3, 64, 96)
    expected = logits_of(model, image)
    prepared = prepare_for_inference(copy.deepcopy(model))
    prepared.test_cfg.update(dtype='bfloat16', classes_only=True)
    before = copy.deepcopy(prepared.state_dict())
    assert before.keys() != model.state_dict().keys()
    test_cfg = dict(prepared.test_cfg)
    path, _ = export(prepared)
    assert_same(run_file(path, image), expected)
    path, _ = export(model, fold_bn=True)
    assert_same(run_file(path, image), expected)
    assert prepared.decode_head.fast
    assert dict(prepared.test_cfg) == test_cfg
    assert all(one.requires_grad for one in model.parameters())
    after = prepared.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_four_channels_and_padding(tiny_model_cfg, build_tiny, export):
    mean, std = [10.0, 20.0, 30.0, 40.0], [50.0, 60.0, 70.0, 80.0]
    cfg = tiny_model_cfg()
    model = build_tiny(
        backbone=dict(cfg['backbone'], in_channels=4),
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=mean,
            std=std,
            bgr_to_rgb=True,
            test_cfg=dict(size_divisor=32),
        ),
        test_cfg=PLAIN,
    ).eval()
    nn.init.normal_(model.decode_head.seg_head.conv_seg.weight)
    path, _ = export(model, size=(40, 56), raw='float32')
    image = torch.rand(2, 4, 40, 56) * 255
    # Neither flipped nor padded.
    mean, std = (torch.tensor(x).view(4, 1, 1) for x in (mean, std))
    expected = logits_of(model, (image - mean) / std)
    assert_same(run_file(path, image), expected)


def test_swin_at_a_fixed_size(tiny_model_cfg, build_case, export):
    seg_head = tiny_model_cfg()['decode_head']['seg_head']
    model = build_case(
        backbone=dict(
            type='SwinTransformer',
            embed_dims=8,
            depths=(2,),
            num_heads=(2,),
            strides=(4,),
            out_indices=(0,),
            window_size=4,
            drop_path_rate=0.0,
        ),
        seg_head=dict(seg_head, in_channels=8, in_index=0),
        test_cfg=PLAIN,
    )
    path, _ = export(model, size=(32, 48), batch=1)
    image = torch.randn(1, 3, 32, 48)
    assert_same(run_file(path, image), logits_of(model, image))
