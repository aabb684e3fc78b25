"""Look at the images of a data set as its pipeline hands them over.

Takes the arguments of mmseg's two tools of this name (``analysis_tools`` and
``misc``), which do not run with OpenCV 4.8 and newer; also runs on data sets
that wrap others, such as ``ClassUniformDataset`` and ``ConcatDataset``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from mmengine.dataset import BaseDataset
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, VISUALIZERS
from mmseg.visualization import SegLocalVisualizer
from rich.progress import track
from torch import Tensor
from torch.nn.functional import interpolate

from hmsa_mmseg.visualization.pictures import as_rgb
from hmsa_mmseg.zoo import find_config

SPLITS = ('train', 'val', 'test')
# Others are written as PNG.
SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp')


def fitted(label: Tensor, inputs: Tensor) -> Tensor:
    """Resize a label, (1, h, w), to the image, (C, H, W), if it is not so."""
    size = inputs.shape[1:]
    if label.shape[1:] == size:
        return label
    # Bytes of classes: no value is between two others.
    return interpolate(label[None].float(), size, mode='nearest')[0].to(
        label.dtype
    )


def file_name(img_path: str, used: set[str]) -> str:
    """Name a picture by its image, with a number if the name is taken."""
    path = Path(img_path)
    suffix = path.suffix if path.suffix.lower() in SUFFIXES else '.png'
    name, number = f'{path.stem}{suffix}', 1
    while name in used:
        name, number = f'{path.stem}_{number}{suffix}', number + 1
    used.add(name)
    return name


def build_visualizer(cfg: Config, dataset: BaseDataset) -> SegLocalVisualizer:
    """Build the config's visualizer, without its places to write to."""
    settings = dict(cfg.get('visualizer') or dict(type='SegLocalVisualizer'))
    settings.update(vis_backends=None, name='browse_dataset')
    visualizer = VISUALIZERS.build(settings)
    # A wrapper has none at its class, where mmseg's tool looks.
    visualizer.dataset_meta = dataset.metainfo
    return visualizer


def browse(cfg: Config, args: argparse.Namespace) -> int:
    """Show or write each image with its labels; return how many."""
    loader = cfg.get(f'{args.split}_dataloader')
    if loader is None:
        raise ValueError(f'{args.config} has no {args.split}_dataloader')
    dataset = DATASETS.build(loader.dataset)
    visualizer = build_visualizer(cfg, dataset)
    number = min(len(dataset), args.number or len(dataset))
    used = set()
    for i in track(range(number), 'browse'):
        item = dataset[i]
        sample = item['data_samples']
        # A test compares with the label as it is in its file.
        if 'gt_sem_seg' in sample:
            label = sample.gt_sem_seg.data
            sample.set_data(
                dict(gt_sem_seg=PixelData(data=fitted(label, item['inputs'])))
            )
        name = file_name(sample.img_path, used)
        out = None
        if args.output_dir is not None:
            out = str(Path(args.output_dir, name))
        visualizer.add_datasample(
            name=name,
            image=as_rgb(item['inputs'].permute(1, 2, 0).numpy()),
            data_sample=sample.numpy(),
            draw_gt=True,
            draw_pred=False,
            wait_time=args.show_interval,
            out_file=out,
            show=not args.not_show,
        )
    return number


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'config', help='config file path, or the name of one of the zoo'
    )
    parser.add_argument(
        '--output-dir',
        help='where to write the pictures, if there is no display',
    )
    parser.add_argument('--not-show', default=False, action='store_true')
    parser.add_argument(
        '--show-interval',
        type=float,
        default=2,
        help='the interval of show (s)',
    )
    parser.add_argument(
        '--split', choices=SPLITS, default='train', help='Default: train'
    )
    parser.add_argument(
        '--number', type=int, help='how many images. Default: all'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, in xxx=yyy format',
    )
    args = parser.parse_args(argv)
    if args.not_show and args.output_dir is None:
        parser.error('--not-show without --output-dir leaves nothing to do')
    has_display = any(map(os.environ.get, ('DISPLAY', 'WAYLAND_DISPLAY')))
    if sys.platform == 'linux' and not (args.output_dir or has_display):
        parser.error(
            'there is no display to show pictures on; expected --output-dir '
            'DIR, with --not-show'
        )
    if args.number is not None and args.number < 1:
        parser.error(f'--number: expected 1 or more, got {args.number}')
    return args


def main(argv: list[str] | None = None) -> int:
    """Browse; 1 on an error."""
    args = parse_args(argv)
    try:
        cfg = Config.fromfile(find_config(args.config))
        cfg.merge_from_dict(args.cfg_options or {})
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        number = browse(cfg, args)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    if args.output_dir is not None:
        print(f'{number} pictures in {args.output_dir}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
