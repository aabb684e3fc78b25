"""LR-ASPP on small features."""

import torch
from mmseg.models.decode_heads import LRASPPHead

from hmsa_mmseg.models import AnySizeLRASPPHead

ARGS = dict(
    in_channels=(4, 4, 8),
    in_index=(0, 1, 2),
    channels=8,
    branch_channels=(2, 4),
    input_transform='multiple_select',
    num_classes=3,
    norm_cfg=dict(type='BN'),
)


def make_feats(height, width):
    return [
        torch.randn(2, channels, height * factor, width * factor)
        for channels, factor in ((4, 4), (4, 2), (8, 1))
    ]


def test_equal_where_the_window_fits():
    stock, own = LRASPPHead(**ARGS).eval(), AnySizeLRASPPHead(**ARGS).eval()
    own.load_state_dict(stock.state_dict())
    feats = make_feats(70, 90)
    assert torch.equal(own(feats), stock(feats))


def test_cut_to_smaller_features():
    head = AnySizeLRASPPHead(**ARGS)
    feats = torch.randn(2, 8, 32, 64)
    found = head.image_pool[0](feats)
    # 49 columns at 0; the next at 20 would not fit.
    expected = feats[:, :, :, :49].mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(found, expected)
    assert head.eval()(make_feats(3, 5)).shape == (2, 3, 12, 20)
