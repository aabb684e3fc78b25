"""Which seg heads are built as the fast ways expect them.

The fast ways read the weights of a head's layers and do not call the layers.
That is the same only if the layers are what they look like: no subclass, no
hook, no other wiring.
"""

from __future__ import annotations

from collections.abc import Callable

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import FCNHead, OCRHead
from mmseg.models.decode_heads.ocr_head import (
    ObjectAttentionBlock,
    SpatialGatherModule,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_BATCH_NORM_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
_HOOKS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_backward_hooks',
    '_backward_pre_hooks',
)


def is_fcn(head: nn.Module) -> bool:
    """Whether a head is an FCNHead that reads resized levels.

    Its first convolution may have any odd kernel; the input must not be
    concatenated to its result.
    """
    return (
        type(head) is FCNHead
        and head.input_transform == 'resize_concat'
        and head.num_convs > 0
        and not head.concat_input
        and is_plain(head.convs[0])
        and _is_classified(head)
    )


def is_ocr(head: nn.Module) -> bool:
    """Whether a head is an OCRHead that reads resized levels."""
    if type(head) is not OCRHead or head.input_transform != 'resize_concat':
        return False
    block = head.object_context_block
    return (
        type(block) is ObjectAttentionBlock
        and type(head.spatial_gather_module) is SpatialGatherModule
        and block.query_downsample is None
        and block.key_downsample is None
        and all(map(is_plain, (head.bottleneck, *block.query_project)))
        and is_plain(block.out_project, kernel_size=1)
        and is_plain(block.bottleneck, kernel_size=1)
        and _is_classified(head)
    )


def is_untouched(head: nn.Module) -> bool:
    """Whether no hook and no other ``forward`` has been put on a layer."""
    return not any(
        'forward' in vars(module) or has_hooks(module)
        for module in head.modules()
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook has been put on a module itself."""
    return any(getattr(module, name, None) for name in _HOOKS)


def is_plain(module: nn.Module, kernel_size: int | None = None) -> bool:
    """Whether a module is a convolution, then a norm, then an activation.

    Args:
        module (nn.Module): Any module.
        kernel_size (int, optional): What the kernel must be. Defaults to
            None: any odd size.

    Returns:
        bool: Whether it is a ConvModule whose convolution keeps the size of
        the map and has neither stride, dilation nor groups.
    """
    if type(module) is not ConvModule or type(module.conv) is not nn.Conv2d:
        return False
    conv = module.conv
    k = conv.kernel_size[0]
    return (
        module.order == ('conv', 'norm', 'act')
        and not module.with_explicit_padding
        and k % 2 == 1
        and kernel_size in (None, k)
        and conv.kernel_size == (k, k)
        and conv.padding == (k // 2, k // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == 'zeros'
    )


def can_fold(module: ConvModule) -> bool:
    """Whether the norm of a module is an affine map of each channel."""
    norm = module.norm if module.with_norm else None
    if isinstance(norm, _BatchNorm):
        return is_fixed_batch_norm(norm)
    return norm is None or isinstance(norm, nn.Identity)


def is_fixed_batch_norm(
    module: nn.Module, forwards: tuple[Callable, ...] = ()
) -> bool:
    """Whether a module is batch normalisation with fixed statistics.

    And nothing else: subclasses may do more, as timm's, which go on with an
    activation.

    Args:
        module (nn.Module): Any module.
        forwards (tuple[Callable]): Methods ``forward`` of subclasses whose
            surplus the caller knows. Defaults to none.
    """
    return (
        isinstance(module, _BatchNorm)
        and type(module).forward in (*_BATCH_NORM_FORWARDS, *forwards)
        and module.running_mean is not None
        and not module.training
        and is_untouched(module)
    )


def _is_classified(head: nn.Module) -> bool:
    return type(head.conv_seg) is nn.Conv2d
