"""The layer of a decode head of mmseg that tells the classes of pixels.

Shape shorthand in this module:
    N: batch, C: channels of the classifier's input, h, w: size of the seg
    head's features at one scale.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Classifier(NamedTuple):
    """The classifier of a decode head.

    Attributes:
        owner (nn.Module): The decode head it belongs to, whose settings
            (``norm_cfg``, ``threshold``, ...) hold for it.
        layer (nn.Module): The layer that is called once per forward pass.
        in_channels (int): C.
        weight (str): Name, within the head given, of a parameter with a
            dimension for the classes.
        class_dim (int): Which dimension that is.
        feats_are_output (bool): Whether what the layer gives are the
            features, tokens (N, h * w, C), rather than what it takes, maps
            (N, C, h, w).
    """

    owner: nn.Module
    layer: nn.Module
    in_channels: int
    weight: str
    class_dim: int = 0
    feats_are_output: bool = False


def find_classifier(head: nn.Module) -> Classifier:
    """Find the classifier of a decode head of mmseg.

    Most heads have a layer ``conv_seg``. ``IterativeDecodeHead`` (K-Net) has
    that of its ``kernel_generate_head``, whose input its kernels classify
    repeatedly. ``SegmenterMaskTransformerHead`` compares what ``patch_proj``
    gives for each pixel with an embedding of each class.

    Args:
        head (nn.Module): A decode head.

    Returns:
        Classifier: What is known about it.

    Raises:
        TypeError: If there is none.
    """
    conv_seg = getattr(head, 'conv_seg', None)
    if hasattr(conv_seg, 'in_channels'):
        return Classifier(
            head, conv_seg, conv_seg.in_channels, 'conv_seg.weight'
        )
    inner = getattr(head, 'kernel_generate_head', None)
    if hasattr(getattr(inner, 'conv_seg', None), 'in_channels'):
        return Classifier(
            inner,
            inner.conv_seg,
            inner.conv_seg.in_channels,
            'kernel_generate_head.conv_seg.weight',
        )
    projection = getattr(head, 'patch_proj', None)
    if isinstance(projection, nn.Linear) and hasattr(head, 'cls_emb'):
        return Classifier(
            head,
            projection,
            projection.out_features,
            'cls_emb',
            class_dim=1,
            feats_are_output=True,
        )
    raise TypeError(
        f'decode_head.seg_head: {type(head).__name__} has no '
        'classifier layer `conv_seg` whose input features could be '
        f'read, got {conv_seg!r}; expected a decode head that ends '
        'in one, such as FCNHead or DepthwiseSeparableASPPHead'
    )
