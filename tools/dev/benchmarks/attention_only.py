"""Suite `attention_only`: what training attention alone costs."""

import torch

from .training_steps import (
    gradients,
    load_config,
    markdown_tables,
    run_models,
    single_scale,
)

TITLE = 'Attention for a frozen zoo model'


def _variants(name):
    whole = load_config(name)
    return {
        'hierarchical, all of it': whole,
        'attention only': load_config(name, attention_only=True),
        'single scale (mmseg)': single_scale(whole),
    }


MODELS = {
    'OCRNet HRNet-W48': dict(
        variants=lambda: _variants(
            'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024'
        ),
        batch_size=2,
        small=False,
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


def _freeze_statistics(model):
    """Let all but attention behave as if frozen; gradients still flow."""
    model.eval()
    for part in model.decode_head.attention_modules:
        part.train()


def check():
    """Stop if attention's gradients are not those of the whole model."""
    for title in ('OCRNet HRNet-W18-Small', 'DeepLabV3+ ResNet-50'):
        whole, alone, _ = MODELS[title]['variants']().values()
        expected = gradients(whole, prepare=_freeze_statistics)
        found = gradients(alone)
        parts = {key for key in expected if '.scale_attn.' in key}
        if found.keys() != parts:
            raise SystemExit(f'{title}: trains {sorted(found)}, not {parts}')
        for key in parts:
            torch.testing.assert_close(found[key], expected[key])


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
        'Training at scales 0.5 and 1.0, relative to training the whole '
        'hierarchical model; the last row is the model of mmseg that it '
        'wraps, at scale 1.0. GFLOP: forward and backward. Memory: the most '
        'that tensors hold at once above the weights, in float32 and without '
        'the buffers of kernels. Both are counted at the size of the crop, '
        'on the meta device, with plain cross-entropy. '
        'Step time: with the update of the weights, median and range of the '
        f'ratios in {results["rounds"]} interleaved rounds. The '
        "attention branch's gradients equal those of the whole model with "
        'fixed statistics; that was checked before.\n\n'
        + markdown_tables(results)
    )
