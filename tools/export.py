"""Export a trained model to ONNX, TorchScript or torch.export.

The file holds all scales and their fusion. Before it takes its place it is
loaded again and compared with the model on random images.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from mmseg.registry import DATASETS, MODELS
from torch import nn

from hmsa_mmseg.export import (
    FORMATS,
    ExportError,
    ExportSettings,
    export_model,
)
from hmsa_mmseg.export.out_path import check_out_path
from hmsa_mmseg.utils import safe_load


def read_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config, import what it asks for, and override its settings.

    Args:
        path (str): Of the config.
        options (dict, optional): Settings by their dotted keys.

    Returns:
        Config: With a ``model``.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no config of a model.
    """
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except OSError:
        raise
    # A config is a program, whose errors are of any type.
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as a config: {_said(error)}'
        ) from error
    if not isinstance(cfg.get('model'), dict):
        raise ValueError(
            f'{path}: model={cfg.get("model")!r}; expected the config of a '
            'training or test run, whose model is a dict'
        )
    return cfg


def load_model(cfg: Config, checkpoint: str) -> nn.Module:
    """Build the model of a config and load all of its weights.

    Args:
        cfg (Config): Of a training or test run.
        checkpoint (str): A checkpoint of it, or of mmseg's own model if the
            head has no attention.

    Returns:
        nn.Module: In evaluation mode. Its ``dataset_meta`` names classes and
        colours, if the checkpoint or the config's test set does.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged or does not fit the model, or there is
            no such model.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = _build(cfg)
    loaded = safe_load(checkpoint)
    loaded = loaded if isinstance(loaded, dict) else {}
    state = loaded.get('state_dict', loaded)
    if not isinstance(state, dict):
        raise ValueError(
            f'{checkpoint}: state_dict is a {type(state).__name__}; expected '
            'a dict of weights by their names'
        )
    state = {str(key).removeprefix('module.'): state[key] for key in state}
    try:
        missing, extra = model.load_state_dict(state, strict=False)
    # Weights of other sizes, or of another number of classes.
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f'{checkpoint} does not fit the model of {cfg.filename}: '
            f'{_said(error)}'
        ) from error
    if missing:
        raise ValueError(
            f'{checkpoint} lacks {len(missing)} of the weights of the model '
            f'of {cfg.filename}, {missing[0]} the first; expected a '
            'checkpoint of the same config'
        )
    if extra:
        print(f'{len(extra)} entries of {checkpoint} are not used: {extra[0]}')
    model.dataset_meta = _dataset_meta(cfg, loaded.get('meta') or {})
    return model.eval()


def _build(cfg: Config) -> nn.Module:
    cfg.model.pretrained = None
    cfg.model.train_cfg = None
    try:
        return MODELS.build(cfg.model)
    # Constructors of mmseg have errors of many types, assertions among them.
    except Exception as error:
        raise ValueError(
            f'{cfg.filename}: model cannot be built: {_said(error)}'
        ) from error


def _said(error: Exception) -> str:
    """Give an error in one line."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:600]}'


def _dataset_meta(cfg: Config, meta: dict) -> dict[str, Any]:
    """Look for the classes in a checkpoint, then in the config."""
    if meta.get('dataset_meta'):
        return meta['dataset_meta']
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    known = dataset.get('type')
    if isinstance(known, str):
        known = DATASETS.get(known)
    return {
        **getattr(known, 'METAINFO', {}),
        **(dataset.get('metainfo') or {}),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = ExportSettings._field_defaults
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', help='checkpoint file path')
    parser.add_argument('--format', choices=FORMATS, default=FORMATS[0])
    parser.add_argument(
        '--out',
        required=True,
        help='the file to write: .onnx, .pt (TorchScript), .pt2 '
        '(torch.export)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        required=True,
        metavar=('H', 'W'),
        help='size of the input',
    )
    parser.add_argument(
        '--dynamic',
        action='store_true',
        help='let the file take other sizes as well',
    )
    parser.add_argument(
        '--batch', type=int, help='number of images. Default: any'
    )
    parser.add_argument(
        '--scales',
        type=float,
        nargs='+',
        help='relative image sizes. Default: model.test_cfg.scales',
    )
    parser.add_argument(
        '--raw',
        nargs='?',
        const='uint8',
        choices=('uint8', 'float32'),
        help='take images as they are loaded, of this type (uint8), and '
        'normalise them within. Default: normalised images',
    )
    parser.add_argument(
        '--classes',
        action='store_true',
        help='give classes (N, H, W) instead of logits (N, K, H, W)',
    )
    parser.add_argument(
        '--opset',
        type=int,
        default=defaults['opset'],
        help=f'version of the ONNX operators. Default: {defaults["opset"]}',
    )
    parser.add_argument(
        '--fold-bn',
        action='store_true',
        help='make batch normalisation part of the convolutions; ONNX files '
        'up to opset 20 have it so anyway',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, in xxx=yyy format',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Export, and print what was verified; 1 on an error."""
    args = parse_args(argv)
    settings = ExportSettings(
        format=args.format,
        size=tuple(args.size),
        dynamic=args.dynamic,
        batch=args.batch,
        scales=None if args.scales is None else tuple(args.scales),
        raw=args.raw,
        classes=args.classes,
        fold_bn=args.fold_bn,
        opset=args.opset,
    )
    try:
        inputs = dict(config=args.config, checkpoint=args.checkpoint)
        check_out_path(args.out, args.format, inputs)
        cfg = read_config(args.config, args.cfg_options)
        model = load_model(cfg, args.checkpoint)
        print(
            f'exporting to {args.format}, '
            f'{args.size[0]} x {args.size[1]}'
            f'{" and other sizes" if args.dynamic else ""} ...',
            flush=True,
        )
        export_model(
            model,
            args.out,
            settings,
            report=lambda done: print(f'verified: {done}', flush=True),
        )
    except (ExportError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        print(f'{args.out} was not written', file=sys.stderr)
        return 1
    print(f'{args.out}: {os.path.getsize(args.out) / 1e6:.1f} MB')
    return 0


if __name__ == '__main__':
    sys.exit(main())
