"""Models of the zoo, small."""

import pytest
from test_models.cases import BN


def hrnet():
    def stage(num_modules, widths, block='BASIC'):
        return dict(
            num_modules=num_modules,
            num_branches=len(widths),
            block=block,
            num_blocks=(1,) * len(widths),
            num_channels=widths,
        )

    return dict(
        type='SingleResizeHRNet',
        norm_cfg=BN,
        extra=dict(
            stage1=stage(1, (8,), 'BOTTLENECK'),
            stage2=stage(1, (4, 8)),
            stage3=stage(1, (4, 8, 16)),
            stage4=stage(1, (4, 8, 16, 32)),
        ),
    )


def resnet():
    return dict(
        type='ResNetV1c',
        depth=18,
        stem_channels=8,
        base_channels=8,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=BN,
        contract_dilation=True,
    )


def swin():
    return dict(
        type='SwinTransformer',
        pretrain_img_size=64,
        embed_dims=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 4, 8),
        window_size=4,
    )


def mit():
    return dict(
        type='MixVisionTransformer',
        embed_dims=8,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 5, 8],
    )


def head(**kwargs):
    return dict(channels=8, num_classes=5, norm_cfg=BN, **kwargs)


PYRAMID = dict(in_index=(0, 1, 2, 3), input_transform='resize_concat')
CASES = {
    'hrnet_fcn-ocr': (
        hrnet(),
        [
            head(
                type='FCNHead',
                in_channels=[4, 8, 16, 32],
                kernel_size=1,
                num_convs=1,
                concat_input=False,
                **PYRAMID,
            ),
            head(
                type='OCRHead',
                in_channels=[4, 8, 16, 32],
                ocr_channels=4,
                **PYRAMID,
            ),
        ],
    ),
    'resnet_deeplabv3plus': (
        resnet(),
        head(
            type='DepthwiseSeparableASPPHead',
            in_channels=64,
            in_index=3,
            dilations=(1, 2, 3),
            c1_in_channels=8,
            c1_channels=4,
        ),
    ),
    'swin_uper': (
        swin(),
        head(
            type='UPerHead',
            in_channels=[8, 16, 32, 64],
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2),
        ),
    ),
    'mit_segformer': (
        mit(),
        head(
            type='SegformerHead',
            in_channels=[8, 16, 40, 64],
            in_index=[0, 1, 2, 3],
        ),
    ),
}


@pytest.fixture(params=CASES)
def zoo_case(request):
    """What `build_tiny` needs for one model of the zoo."""
    backbone, seg_head = CASES[request.param]
    return dict(backbone=backbone, seg_head=seg_head)
