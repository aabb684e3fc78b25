"""Small models, and what runs exported files without this package."""

import pytest
import torch

from hmsa_mmseg.export import ExportSettings, export_model

BN = dict(type='BN', requires_grad=True)


def stage(widths, block='BASIC'):
    return dict(
        num_modules=1,
        num_branches=len(widths),
        block=block,
        num_blocks=(1,) * len(widths),
        num_channels=widths,
    )


def head(**kwargs):
    return {**dict(channels=8, num_classes=5, norm_cfg=BN), **kwargs}


HRNET = dict(
    type='SingleResizeHRNet',
    norm_cfg=BN,
    extra=dict(
        stage1=stage((8,), 'BOTTLENECK'),
        stage2=stage((4, 8)),
        stage3=stage((4, 8, 16)),
        stage4=stage((4, 8, 16, 32)),
    ),
)
RESNET = dict(
    type='ResNetV1c',
    depth=18,
    stem_channels=8,
    base_channels=8,
    strides=(1, 2, 1, 1),
    dilations=(1, 1, 2, 4),
    norm_cfg=BN,
    contract_dilation=True,
)
MIT = dict(
    type='MixVisionTransformer',
    embed_dims=8,
    num_layers=[1, 1, 1, 1],
    num_heads=[1, 2, 5, 8],
)
PYRAMID = dict(
    in_channels=[4, 8, 16, 32],
    in_index=(0, 1, 2, 3),
    input_transform='resize_concat',
)
CONV = dict(kernel_size=1, num_convs=1, concat_input=False)
OCR = [
    head(type='FCNHead', **CONV, **PYRAMID),
    head(type='OCRHead', ocr_channels=4, **PYRAMID),
]
ASPP = head(
    type='DepthwiseSeparableASPPHead',
    in_channels=64,
    in_index=3,
    dilations=(1, 2, 3),
    c1_in_channels=8,
    c1_channels=4,
)
PSP = head(type='PSPHead', in_channels=64, in_index=3, pool_scales=(1, 2, 3))
SEGFORMER = head(
    type='SegformerHead', in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3]
)
# What torch.export takes seconds for, not half a minute, at variable sizes.
RESNET_STAGE = dict(
    RESNET, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,)
)
FCN = head(type='FCNHead', in_channels=8, in_index=0, num_convs=1)
CASES = {
    'resnet-stage_fcn': (RESNET_STAGE, FCN),
    'hrnet_fcn-ocr': (HRNET, OCR),
    'resnet_deeplabv3plus': (RESNET, ASPP),
    'resnet_psp': (RESNET, PSP),
    'mit_segformer': (MIT, SEGFORMER),
}
SUFFIX = {'onnx': '.onnx', 'torch-export': '.pt2'}


@pytest.fixture
def build_case(build_lively):
    """Return a function that builds a model which predicts all classes."""

    def build(name='tiny', **kwargs):
        if name in CASES:
            backbone, seg_head = CASES[name]
            kwargs = dict(backbone=backbone, seg_head=seg_head, **kwargs)
        return build_lively(**kwargs)

    return build


@pytest.fixture
def export(tmp_path):
    """Return a function that exports and gives the path and the proofs."""

    def run(model, format='onnx', size=(64, 96), **kwargs):
        path = tmp_path / f'model{SUFFIX[format]}'
        settings = ExportSettings(format, size, **kwargs)
        return path, export_model(model, path, settings)

    return run


def run_file(path, image):
    """Run a file as a user without this package would."""
    if path.suffix == '.onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(
            str(path), providers=['CPUExecutionProvider']
        )
        (result,) = session.run(None, {'image': image.numpy()})
        return torch.from_numpy(result)
    with torch.no_grad():
        return torch.export.load(str(path)).module()(image)


def logits_of(model, image):
    with torch.no_grad():
        return model.encode_decode(image)


def assert_same(found, expected):
    """Compare logits, and classes but for ties."""
    assert found.dtype == torch.float32
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * largest)
    top = expected.topk(2, dim=1).values
    no_tie = top[:, 0] - top[:, 1] > 2e-4 * largest
    assert no_tie.float().mean() > 0.9
    classes = expected.argmax(dim=1)
    assert len(classes.unique()) > 1
    assert torch.equal(found.argmax(dim=1)[no_tie], classes[no_tie])
