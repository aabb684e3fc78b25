"""File names of converted configs."""

import pytest

from hmsa_mmseg.zoo.naming import config_name, shortened_name

TAIL = '4xb2-80k_cityscapes-512x1024'
NAMES = {
    # Those of our own configs.
    'ocrnet_hr48_4xb2-160k_cityscapes-512x1024': (
        'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024'
    ),
    'segformer_mit-b0_8xb1-160k_cityscapes-1024x1024': (
        'hmsa_mit-b0_segformer_8xb1-160k_cityscapes-1024x1024'
    ),
    f'deeplabv3plus_r50-d8_{TAIL}': f'hmsa_r50-d8_deeplabv3plus_{TAIL}',
    f'fcn-d6_r50-d16_{TAIL}': f'hmsa_r50-d16_fcn-d6_{TAIL}',
    # Names that begin with the backbone.
    f'resnest_s101-d8_fcn_{TAIL}': f'hmsa_resnest_s101-d8_fcn_{TAIL}',
    f'stdc1_{TAIL}': f'hmsa_stdc1_{TAIL}',
    'pidnet-s_2xb6-120k_1024x1024-cityscapes': (
        'hmsa_pidnet-s_2xb6-120k_1024x1024-cityscapes'
    ),
    # A head, its backbone, and the head that it is made of.
    f'knet-s3_r50-d8_upernet_{TAIL}': f'hmsa_r50-d8_upernet_knet-s3_{TAIL}',
    'voc': 'hmsa_voc',
}


@pytest.mark.parametrize('stem', NAMES)
def test_names(stem):
    assert config_name(stem) == NAMES[stem]


def test_attention_only():
    name = NAMES['ocrnet_hr48_4xb2-160k_cityscapes-512x1024']
    assert shortened_name(name, 'attn-only', 160000, 40000) == (
        # That of our own config.
        'hmsa_hr48_ocr_4xb2-attn-only-40k_cityscapes-512x1024'
    )
    assert shortened_name(name, 'attn-only', 100000, 12500) == (
        'hmsa_hr48_ocr_4xb2-160k-attn-only_cityscapes-512x1024'
    )
    assert shortened_name('hmsa_x_4xb2-10k_y', 'attn-only', 10000, 2500) == (
        'hmsa_x_4xb2-attn-only-2500_y'
    )
    assert (
        shortened_name('hmsa_voc', 'finetune', 20000, 5000)
        == 'hmsa_voc_finetune'
    )
