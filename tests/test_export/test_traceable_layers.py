import pytest
import torch
from torch import nn

from hmsa_mmseg.export.traceable_layers import (
    MatrixAveragePool2d,
    PlainAttention,
    make_traceable,
)


@pytest.mark.parametrize(
    ('size', 'bins'),
    [((2, 3), (6, 2)), ((12, 11), (4, 3))],
)
def test_pooling_is_that_of_pytorch(size, bins):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    found = MatrixAveragePool2d(bins)(x)
    expected = nn.functional.adaptive_avg_pool2d(x, bins)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ('batch_first', 'bias'), [(False, True), (True, False)]
)
def test_attention_is_that_of_pytorch(batch_first, bias):
    own = nn.MultiheadAttention(
        12, 3, bias=bias, batch_first=batch_first, dtype=torch.float64
    ).eval()
    for parameter in own.parameters():
        nn.init.normal_(parameter)
    query = torch.randn(2, 5, 12, dtype=torch.float64)
    key, value = torch.randn(2, 2, 7, 12, dtype=torch.float64)
    if not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    plain = PlainAttention(own)
    for found, expected in zip(
        plain(query, key, value), own(query, key, value)
    ):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert plain(query, key, value, need_weights=False)[1] is None

    mask = torch.ones(5, 7).triu(1).bool()
    found = plain(query, key, value, attn_mask=mask)[0]
    expected = own(query, key, value, attn_mask=mask)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


class _PoolSubclass(nn.AdaptiveAvgPool2d):
    pass


def test_what_is_replaced():
    model = nn.ModuleDict(
        dict(
            one=nn.AdaptiveAvgPool2d(1),
            pair=nn.Sequential(nn.AdaptiveAvgPool2d((1, 3))),
            keeps_height=nn.AdaptiveAvgPool2d((None, 3)),
            subclass=_PoolSubclass(2),
            attention=nn.MultiheadAttention(4, 2),
            other_keys=nn.MultiheadAttention(4, 2, kdim=3),
            with_bias=nn.MultiheadAttention(4, 2, add_bias_kv=True),
        )
    )
    make_traceable(model)
    new = (MatrixAveragePool2d, PlainAttention)
    found = {n for n, m in model.named_modules() if isinstance(m, new)}
    assert found == {'pair.0', 'attention'}


def test_layers_that_read_their_attention():
    kwargs = dict(batch_first=True, dropout=0)
    model = nn.ModuleDict(
        dict(
            encoder=nn.TransformerEncoderLayer(4, 2, 8, **kwargs),
            decoder=nn.TransformerDecoderLayer(4, 2, 8, **kwargs),
        )
    ).eval()
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        expected = model['decoder'](x, model['encoder'](x))
        make_traceable(model)
        assert torch.equal(model['decoder'](x, model['encoder'](x)), expected)
    assert not any(isinstance(m, PlainAttention) for m in model.modules())
