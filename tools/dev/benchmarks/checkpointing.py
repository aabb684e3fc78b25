"""Suite `checkpointing`: what ``train_cfg.checkpoint`` saves and costs."""

import torch

from .training_steps import (
    gradients,
    load_config,
    markdown_tables,
    run_models,
)

TITLE = 'Gradient checkpointing'
WAYS = ((), ('scales',), ('backbone',), ('scales', 'backbone'))


def _variants(name, **kwargs):
    return {
        ' + '.join(names) or 'off': load_config(
            name, checkpoint=names, **kwargs
        )
        for names in WAYS
    }


MODELS = {
    'OCRNet HRNet-W48': dict(
        variants=lambda: _variants(
            'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024'
        ),
        batch_size=2,
        small=False,
    ),
    'OCRNet HRNet-W48, the crop of the paper': dict(
        variants=lambda: _variants(
            'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024',
            crop_size=(1024, 2048),
        ),
        batch_size=1,
        small=False,
        timed=False,
    ),
    'OCRNet HRNet-W18-Small': dict(
        variants=lambda: _variants(
            'hmsa_hr18s_ocr_4xb2-40k_cityscapes-512x1024'
        ),
        batch_size=2,
    ),
    'DeepLabV3+ ResNet-50': dict(
        variants=lambda: _variants(
            'hmsa_r50-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024'
        ),
        batch_size=2,
    ),
}


def check():
    """Stop if a gradient differs in its last bit from the plain one."""
    title = 'OCRNet HRNet-W18-Small'
    plain, *others = map(gradients, MODELS[title]['variants']().values())
    for names, found in zip(WAYS[1:], others):
        wrong = [
            key for key in plain if not torch.equal(plain[key], found[key])
        ]
        if found.keys() != plain.keys() or wrong:
            raise SystemExit(
                f'checkpoint={names}: the gradients of {wrong} are not those '
                'of the plain step; nothing was measured'
            )


def run(options):
    """Check, then measure.

    Args:
        options (Options): Of the run.

    Returns:
        dict: What is written as JSON.
    """
    check()
    return run_models(MODELS, options.rounds, options.size)


def markdown(results):
    """Format what :func:`run` gives as the text of the suite's page."""
    return (
        'Training at scales 0.5 and 1.0, relative to `checkpoint` off. '
        'GFLOP: forward and backward. Memory: the most that tensors hold at '
        'once above the weights, activations, gradients and the loss, in '
        'float32 and without the buffers of kernels. Both are counted at the '
        'size of the crop, on the meta device, with plain cross-entropy. '
        'Step time: with the update of the weights, median and range of the '
        f'ratios in {results["rounds"]} interleaved rounds. '
        'Gradients are bit-equal; that was checked before.\n\n'
        + markdown_tables(results)
    )
