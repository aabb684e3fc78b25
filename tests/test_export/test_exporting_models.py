"""Models as configs, checkpoints and preparation leave them."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from hmsa_mmseg.export import ExportError
from hmsa_mmseg.export.graph import Normalise
from hmsa_mmseg.models import prepare_for_inference

SCALES = (0.5, 1.0)
PLAIN = dict(mode='whole', scales=SCALES)


def assert_exported(path, model, run_file, image, inputs=None):
    """``inputs`` are what the preprocessor makes of ``image``."""
    model.test_cfg = ConfigDict(PLAIN)
    with torch.no_grad():
        expected = model.encode_decode(image if inputs is None else inputs)
    found = run_file(path, image)
    assert len(expected.argmax(dim=1).unique()) > 1
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-4 * float(expected.abs().max())
    )


@pytest.mark.parametrize('fold_bn', [False, True])
def test_sync_bn(fold_bn, tiny_model_cfg, build_case, export, run_file):
    cfg = tiny_model_cfg()
    norm = dict(norm_cfg=dict(type='SyncBN', requires_grad=True))
    model = build_case(
        backbone={**cfg['backbone'], **norm},
        seg_head={**cfg['decode_head']['seg_head'], **norm},
        test_cfg=PLAIN,
    )
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    path, _ = export(model, fold_bn=fold_bn)
    assert_exported(path, model, run_file, torch.randn(2, 3, 64, 96))


def test_settings_for_testing_are_not_carried_over(
    build_case, export, run_file
):
    model = build_case(
        test_cfg=dict(**PLAIN, dtype='bfloat16', classes_only=True)
    )
    path, _ = export(model)
    assert_exported(path, model, run_file, torch.randn(2, 3, 64, 96))


def test_a_prepared_model(build_case, export, run_file):
    model = build_case(test_cfg=PLAIN)
    prepared = prepare_for_inference(copy.deepcopy(model))
    before = {k: v.clone() for k, v in prepared.state_dict().items()}
    assert before.keys() != model.state_dict().keys()
    path, _ = export(prepared)
    assert_exported(path, model, run_file, torch.randn(2, 3, 64, 96))
    after = prepared.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_four_channels_and_padding(
    tiny_model_cfg, build_tiny, export, run_file
):
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
    inputs = (image - mean) / std
    assert_exported(path, model, run_file, image, inputs)


def test_normalisation_is_verified_too(build_case, export, monkeypatch):
    def forward(self, image):
        return (image.float() - self.mean) / self.std

    monkeypatch.setattr(Normalise, 'forward', forward)
    with pytest.raises(ExportError, match='does not predict'):
        export(build_case(), raw='uint8')


def test_swin_at_a_fixed_size(tiny_model_cfg, build_case, export, run_file):
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
    assert_exported(path, model, run_file, torch.randn(1, 3, 32, 48))
