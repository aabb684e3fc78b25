"""BEiT for images of any size.

Shape shorthand in this module:
    N: batch, C: channels, A: attention heads, h, w: size of an image in
    patches, T: tokens, 1 + h * w.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.models.backbones import BEiT
from mmseg.models.backbones.beit import (
    BEiTAttention,
    BEiTTransformerEncoderLayer,
)
from mmseg.registry import MODELS
from torch import Tensor

# Biases of the class token: to a patch, from a patch, to itself.
_NUM_EXTRA = 3

PatchGrid = tuple[int, int]


@MODELS.register_module()
class AnySizeBEiT(BEiT):
    """mmseg's BEiT, for images of other sizes than ``img_size`` too.

    Its attention has a bias for each relative position of two patches of an
    image of ``img_size``, and fails on any other size, such as those of
    several scales. Here the biases are interpolated then
    (:func:`resized_bias`); at ``img_size`` the two are equal. Arguments and
    state-dict keys are those of mmseg's :class:`BEiT`, whose checkpoints
    load as they are.

    Args:
        *args: As in mmseg's :class:`BEiT`.
        **kwargs: As in mmseg's :class:`BEiT`.
    """

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W) to features (N, C, h, w) of some layers."""
        if patch_grid(inputs, self.patch_size) == self.window_size:
            return super().forward(inputs)
        return forward_at_any_size(self, inputs)


def patch_grid(inputs: Tensor, patch_size: int) -> PatchGrid:
    """Size (h, w) of images in whole patches, as BEiT cuts them."""
    height, width = inputs.shape[2:]
    return height // patch_size, width // patch_size


def forward_at_any_size(
    backbone: BEiT, inputs: Tensor, pos_embed: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Compute what ``BEiT.forward`` does, with biases of the images' size.

    ``pos_embed`` (1, T, C) is added to the tokens.
    """
    tokens, grid = backbone.patch_embed(inputs)
    cls_token = backbone.cls_token.expand(len(inputs), -1, -1)
    tokens = torch.cat((cls_token, tokens), dim=1)
    if pos_embed is not None:
        tokens = tokens + pos_embed
    # The same for all layers: which bias two tokens have.
    index = BEiTAttention(1, 1, grid).relative_position_index
    index = index.to(inputs.device)
    outs = []
    for i, layer in enumerate(backbone.layers):
        tokens = _run_layer(layer, tokens, grid, index)
        if i == len(backbone.layers) - 1 and backbone.final_norm:
            tokens = backbone.norm1(tokens)
        if i in backbone.out_indices:
            maps = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
            outs.append(maps.contiguous())
    return tuple(outs)


def resized_bias(
    attn: BEiTAttention, grid: PatchGrid, index: Tensor
) -> Tensor:
    """Attention's bias by relative position, for another size, (A, T, T).

    The table is interpolated, bicubic, between its ends: a position counts as
    a fraction of the image. mmseg, too, interpolates it when it loads
    pre-trained weights (``BEiT.resize_rel_pos_embed``), for squares alone and
    denser in the middle. ``index`` (T, T) is the place in a table for this
    size.
    """
    table = attn.relative_position_bias_table
    sides = [2 * length - 1 for length in attn.window_size]
    patches = table[:-_NUM_EXTRA].T.reshape(1, -1, *sides)
    patches = F.interpolate(
        patches.float(),
        size=[2 * length - 1 for length in grid],
        mode='bicubic',
        align_corners=True,
    )
    resized = torch.cat((patches[0].flatten(1).T, table[-_NUM_EXTRA:]))
    return resized[index].permute(2, 0, 1)


def _run_layer(
    layer: BEiTTransformerEncoderLayer,
    tokens: Tensor,
    grid: PatchGrid,
    index: Tensor,
) -> Tensor:
    attended = _attend(layer.attn, layer.norm1(tokens), grid, index)
    tokens = tokens + layer.drop_path(layer.gamma_1 * attended)
    return tokens + layer.drop_path(
        layer.gamma_2 * layer.ffn(layer.norm2(tokens))
    )


def _attend(
    attn: BEiTAttention, tokens: Tensor, grid: PatchGrid, index: Tensor
) -> Tensor:
    """Compute what ``BEiTAttention.forward`` does, (N, T, C)."""
    bias = attn.qkv.bias
    if attn.bias == 'qv_bias':
        zeros = torch.zeros_like(attn.v_bias, requires_grad=False)
        bias = torch.cat((attn.q_bias, zeros, attn.v_bias))
    qkv = F.linear(tokens, attn.qkv.weight, bias)
    qkv = qkv.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind()
    attended = F.scaled_dot_product_attention(
        # SDPA takes a scale of its own only from torch 2.1 on.
        query * (attn.scale * query.shape[-1] ** 0.5),
        key,
        value,
        attn_mask=resized_bias(attn, grid, index).to(query.dtype),
        dropout_p=attn.attn_drop.p if attn.training else 0.0,
    )
    attended = attended.transpose(1, 2).flatten(2)
    return attn.proj_drop(attn.proj(attended))
