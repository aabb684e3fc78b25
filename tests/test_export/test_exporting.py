"""Exported files against the model, run without this package."""

import pytest
import torch
from torch import nn

from hmsa_mmseg.export import (
    FORMATS,
    ExportError,
    ExportSettings,
    read_metadata,
)
from hmsa_mmseg.export import exporting as exporting_module
from hmsa_mmseg.export.exporting import describe
from hmsa_mmseg.export.graph import ExportGraph

# At scale 0.5 no map of a network with stride 32 is a single pixel.
SIZE = (136, 200)


def logits_of(model, image):
    with torch.no_grad():
        return model.encode_decode(image)


def assert_same(found, expected):
    assert found.dtype == torch.float32
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * largest)
    top = expected.topk(2, dim=1).values
    no_tie = top[:, 0] - top[:, 1] > 2e-4 * largest
    assert no_tie.float().mean() > 0.9
    classes = expected.argmax(dim=1)
    assert len(classes.unique()) > 1
    assert torch.equal(found.argmax(dim=1)[no_tie], classes[no_tie])


@pytest.mark.parametrize(
    'case',
    [
        'hrnet_fcn-ocr',
        'resnet_deeplabv3plus',
        'resnet_psp',
        'mit_segformer',
    ],
)
def test_networks_at_any_size(case, build_case, export, run_file):
    model = build_case(case, test_cfg=dict(mode='whole', scales=(0.5, 1.0)))
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
    model = build_case(
        case,
        test_cfg=dict(mode='whole', scales=scales),
        auxiliary_head=dict(
            type='FCNHead',
            in_channels=channels,
            in_index=0,
            channels=8,
            num_convs=1,
            num_classes=5,
        ),
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


def test_a_newer_opset(build_case, export, run_file):
    import onnx

    model = build_case(
        'resnet-stage_fcn', test_cfg=dict(mode='whole', scales=(0.5, 1.0))
    )
    path, _ = export(model, size=(40, 56), opset=21)
    (opset,) = [
        entry.version
        for entry in onnx.load(path).opset_import
        if entry.domain in ('', 'ai.onnx')
    ]
    assert opset == 21
    image = torch.randn(3, 3, 40, 56)
    assert_same(run_file(path, image), logits_of(model, image))


@pytest.mark.parametrize(
    'head',
    [
        dict(type='HierarchicalMSAttentionHead'),
        dict(type='AttentionToScaleHead', num_scales=4),
        dict(type='MultiScaleAverageHead', attn_channels=None),
    ],
)
def test_ways_to_fuse_and_scales(head, tiny_model_cfg, export, run_file):
    from mmengine.config import ConfigDict
    from mmseg.registry import MODELS

    scales = (0.25, 0.75, 1.5, 2.0)
    cfg = tiny_model_cfg(
        test_cfg=dict(mode='whole', scales=(1.0,)), decode_head=head
    )
    if cfg['decode_head']['attn_channels'] is None:
        del cfg['decode_head']['attn_channels']
    cfg.update(train_cfg=None, test_cfg=dict(mode='whole', scales=scales))
    model = MODELS.build(ConfigDict(cfg)).eval()
    nn.init.normal_(model.decode_head.seg_head.conv_seg.weight)
    model.test_cfg.scales = scales
    path, _ = export(
        model, size=(96, 128), dynamic=True, scales=(2.0, 0.25, 0.75, 1.5)
    )
    image = torch.randn(2, 3, 101, 131)
    assert_same(run_file(path, image), logits_of(model, image))


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('opset', [11, 20])
def test_resizing_convention(
    align_corners, opset, build_case, export, run_file
):
    seg_head = dict(
        type='FCNHead',
        in_channels=16,
        in_index=1,
        channels=8,
        num_convs=1,
        num_classes=5,
        align_corners=align_corners,
        loss_decode=dict(type='CrossEntropyLoss'),
    )
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
def test_classes_of_raw_images(format, build_case, export, run_file):
    model = build_case(test_cfg=dict(mode='whole', scales=(0.5, 1.0)))
    path, _ = export(model, format, raw='uint8', classes=True, fold_bn=True)
    images = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    # mmseg's own preprocessing and results.
    from mmseg.structures import SegDataSample

    samples = [
        SegDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
        for _ in images
    ]
    data = dict(inputs=list(images), data_samples=samples)
    with torch.no_grad():
        results = model.test_step(data)
    expected = torch.stack([one.pred_sem_seg.data[0] for one in results])
    found = run_file(path, images)
    assert found.dtype == torch.uint8
    assert found.shape == (2, 64, 96)
    assert len(expected.unique()) > 1
    assert (found == expected).float().mean() > 0.999


def test_one_channel_and_its_threshold(build_case, export, run_file):
    seg_head = dict(
        type='FCNHead',
        in_channels=16,
        in_index=1,
        channels=8,
        num_convs=1,
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


MESSAGES = {
    'onnx': 'index: {axis} Got: {got} Expected: {expected}',
    'torch-export': r'image.size\(\)\[{axis}\] == {expected}$',
}


@pytest.mark.parametrize('format', FORMATS)
def test_what_was_fixed_is_checked(
    format, build_case, export, run_file, metadata_of
):
    model = build_case()
    model.dataset_meta = dict(classes=('road', 'sky', 'pole', 'car', 'sign'))
    path, verified = export(model, format, batch=1, scales=(1.0,))
    assert [(one.batch, one.size) for one in verified] == [(1, (64, 96))]
    fixed = (1, 3, 64, 96)
    run_file(path, torch.randn(fixed))
    for axis, got in ((0, 2), (2, 72), (3, 104)):
        image = torch.randn(*fixed[:axis], got, *fixed[axis + 1 :])
        message = MESSAGES[format].format(
            axis=axis, got=got, expected=fixed[axis]
        )
        # Each runtime has errors of its own.
        with pytest.raises(Exception, match=message):
            run_file(path, image)

    found = metadata_of(path)
    assert found == read_metadata(path, format)
    described = describe(
        model, ExportSettings(format, (64, 96), batch=1, scales=(1.0,))
    )
    assert found == described


class _Brighter(ExportGraph):
    def forward(self, image):
        return super().forward(image * 1.1)


def test_classes_are_proven_where_there_is_only_one(
    build_case, export, monkeypatch
):
    model = build_case()
    model.decode_head.seg_head.conv_seg.bias.data[2] += 30
    _, verified = export(model, classes=True)
    assert [one.num_found for one in verified] == [1, 1, 1, 1]
    is_logits = [one.difference is not None for one in verified]
    assert is_logits == [True, True, False, False]

    monkeypatch.setattr(exporting_module, 'ExportGraph', _Brighter)
    message = r'100.0000% of pixels .*logits differ .*\(1 class found'
    with pytest.raises(ExportError, match=message):
        export(model, classes=True)


def test_the_model_is_left_alone(build_case, export):
    model = build_case()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    test_cfg = dict(model.test_cfg)
    export(model, scales=(1.0,), fold_bn=True)
    assert model.decode_head.fast
    assert dict(model.test_cfg) == test_cfg
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
