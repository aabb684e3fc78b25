"""What a training step of each method costs, relative to a single scale.

    python -m fusion.costs demo costs.json --size 128 256   (in tools/dev)

Shape shorthand in this module:
    N: batch, H, W: image size.
"""

import argparse
from functools import partial
from pathlib import Path

# First: it makes the rest of the stack importable.
import hmsa_mmseg  # noqa: F401  # isort: skip

import torch
import torch.nn.functional as F
from benchmarking.measure import (
    count_flops,
    interleaved,
    machine,
    median_ms,
    pair_ratios,
    peak_live_bytes,
)
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch import nn

from hmsa_mmseg.utils import write_json


class _PlainLoss(nn.Module):
    """Stand-in for a loss of mmseg: torch's cross-entropy, and nothing else.

    mmseg's losses and accuracies read values, which tensors on `meta` do not
    have. None of them holds a convolution or a matrix product, so no counted
    operation is lost.
    """

    loss_name = 'loss_ce'

    def forward(self, seg_logits, seg_label, ignore_index=255):
        return F.cross_entropy(
            seg_logits, seg_label, ignore_index=ignore_index
        )

    def by_feat(self, head, seg_logits, batch_data_samples):
        """Do what :meth:`BaseDecodeHead.loss_by_feat` does.

        Of several outputs, as PIDNet's head gives, the losses add up; one of
        a single channel is that of boundaries.
        """
        seg_label = torch.cat([s.gt_sem_seg.data for s in batch_data_samples])
        outputs = [seg_logits] if torch.is_tensor(seg_logits) else seg_logits
        loss = 0
        for logits in outputs:
            logits = resize(
                logits,
                seg_label.shape[1:],
                mode='bilinear',
                align_corners=head.align_corners,
            )
            if logits.shape[1] > 1:
                loss = loss + self(logits, seg_label)
            else:
                target = seg_label.unsqueeze(1).to(logits)
                loss = loss + F.binary_cross_entropy_with_logits(
                    logits, target
                )
        return dict(loss_ce=loss)


def use_plain_losses(model):
    """Put a stand-in in the place of every loss of a model."""
    loss = _PlainLoss()
    for module in model.modules():
        if isinstance(module, BaseDecodeHead):
            module.loss_by_feat = partial(loss.by_feat, module)
        elif len(getattr(module, 'loss_scale', ())) > 0:
            module.loss_scale = nn.ModuleList([loss])


def _build(cfg, size, device):
    """Build a model for training on images of ``size``, without weights."""
    model_cfg = cfg.model.copy()
    model_cfg.pretrained = None
    model_cfg.backbone.pop('init_cfg', None)
    # A smaller image would be padded to the size of the crop.
    model_cfg.data_preprocessor.size = size
    with torch.device(device):
        model = MODELS.build(model_cfg)
    return revert_sync_batchnorm(model).train()


def _samples(batch_size, size, num_classes, device):
    """Labels of ``batch_size`` images; their values cost nothing.

    The map of edges is what PIDNet's pipeline adds.
    """
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(batch_size):
        label = torch.randint(num_classes, (1, *size), generator=generator)
        samples.append(
            SegDataSample(
                gt_sem_seg=PixelData(data=label.to(device)),
                gt_edge_map=PixelData(data=(label == 0).long().to(device)),
                metainfo=dict(img_shape=size, ori_shape=size),
            )
        )
    return samples


def step_on_meta(cfg, batch_size):
    """Return forward and backward at the config's crop, without values.

    Args:
        cfg (mmengine.Config): A whole config. Its losses are replaced, see
            :class:`_PlainLoss`.
        batch_size (int): N.

    Returns:
        Callable: Without arguments; its operations and tensors can be
        counted at sizes that would not fit in memory.
    """
    size = tuple(cfg.crop_size)
    return plain_step(_build(cfg, size, 'meta'), batch_size, size)


def plain_step(model, batch_size, size):
    """Return forward and backward of a model on ``meta``.

    Args:
        model (nn.Module): For training. Its losses are replaced, see
            :class:`_PlainLoss`.
        batch_size (int): N.
        size (tuple[int, int]): H and W.

    Returns:
        Callable: Without arguments.
    """
    use_plain_losses(model)
    inputs = torch.empty(batch_size, 3, *size, device='meta')
    samples = _samples(batch_size, size, model.num_classes, 'meta')

    def step():
        model.zero_grad()
        losses = model.loss(inputs, samples)
        sum(v for key, v in losses.items() if 'loss' in key).backward()

    return step


def training_step(cfg, batch_size, size, device):
    """Return mmengine's training step on random images, as a function.

    It normalises the images, runs forward with the config's losses and
    backward, and updates the weights with the config's optimizer, in
    float32.

    Args:
        cfg (mmengine.Config): A whole config.
        batch_size (int): N.
        size (tuple[int, int]): H and W.
        device (str): ``cpu`` or ``cuda``.

    Returns:
        Callable: Without arguments.
    """
    model = _build(cfg, size, 'cpu').to(device)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    return update_step(model, optim_wrapper, batch_size, size)


def update_step(model, optim_wrapper, batch_size, size):
    """Return the training step of a model that has been built.

    Args:
        model (nn.Module): For training, whose preprocessor takes ``size``.
        optim_wrapper (OptimWrapper): Of its parameters.
        batch_size (int): N.
        size (tuple[int, int]): H and W.

    Returns:
        Callable: Without arguments.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randint(256, (3, *size), generator=generator).to(torch.uint8)
        for _ in range(batch_size)
    ]
    samples = _samples(batch_size, size, model.num_classes, 'cpu')
    data = dict(inputs=inputs, data_samples=samples)
    return lambda: model.train_step(dict(data), optim_wrapper)


def _peak_cuda_bytes(step):
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(configs, num, size, rounds, device):
    """Measure the training step of models.

    Args:
        configs (dict[str, Path]): Config of each; the others are compared
            with ``single``.
        num (int): Images in the step.
        size (tuple[int, int]): Image size of the timing and of what CUDA
            allocates; all else is of the config's crop.
        rounds (int): Rounds of the timing; each runs every model once.
        device (str): ``cpu`` or ``cuda``.

    Returns:
        dict: ``models``, for each ``gflops``, ``live_mb`` (the most that
        tensors hold at once, gradients included, weights not), ``ms``,
        ``cuda_mb`` (None without CUDA), and ``relative``: their ratios to the
        single scale, ``time`` with ``time_low`` and ``time_high``,
        ``cpu_time`` of the processor; beside them what they were measured on.
    """
    register_all_modules(init_default_scope=True)
    cfgs = {key: Config.fromfile(path) for key, path in configs.items()}
    steps = {
        key: training_step(cfg, num, size, device) for key, cfg in cfgs.items()
    }
    times = interleaved(steps, rounds=rounds, warmup=2)
    models = {}
    for key, cfg in cfgs.items():
        on_meta = step_on_meta(cfg, num)
        # After the timing: the optimizer's state is there and does not count.
        peak = _peak_cuda_bytes(steps[key]) if device == 'cuda' else None
        models[key] = dict(
            gflops=count_flops(on_meta) / 1e9,
            live_mb=peak_live_bytes(on_meta) / 1e6,
            ms=median_ms(times[key]),
            cuda_mb=None if peak is None else peak / 1e6,
        )
    single = models['single']
    for key, model in models.items():
        ratio = pair_ratios(times, key, 'single')
        model['relative'] = dict(
            flops=model['gflops'] / single['gflops'],
            time=ratio.median,
            time_low=ratio.low,
            time_high=ratio.high,
            cpu_time=pair_ratios(times, key, 'single', clock='cpu').median,
            memory=model['live_mb'] / single['live_mb'],
            cuda_memory=peak and model['cuda_mb'] / single['cuda_mb'],
        )
    return dict(
        crop_size=list(cfgs['single'].crop_size),
        size=list(size),
        batch_size=num,
        rounds=rounds,
        machine=machine(),
        models=models,
    )


def main():
    """Measure the models of a comparison and write what was found."""
    # Not for those who import the functions above.
    from .experiment import PRESETS, TRAINED

    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('preset', choices=PRESETS)
    parser.add_argument('out', type=Path)
    parser.add_argument('--size', type=int, nargs=2, required=True)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    configs = {key: preset.configs[key] for key in TRAINED}
    options = (tuple(args.size), args.rounds, args.device)
    write_json(args.out, measure(configs, preset.batch_size, *options))


if __name__ == '__main__':
    main()
