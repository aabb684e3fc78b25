"""Pictures of what each scale says, from mmseg's own test.py and train.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime

import mmcv
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine import dist, fileio
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import BaseLoop
from mmseg.registry import HOOKS

from hmsa_mmseg.datasets import leaf_datasets
from hmsa_mmseg.models.segmentors import MultiScaleAttentionSegmentor
from hmsa_mmseg.utils.checks import check_integer
from hmsa_mmseg.utils.unwrapping import segmentor_of, unwrapped

from .image_names import ImageNames
from .pictures import as_rgb
from .records import FOLDER, check_run, write_run
from .scale_maps_step import predict_with_maps
from .scale_maps_visualizer import ScaleMapsVisualizer


@HOOKS.register_module()
class ScaleMapsVisualizationHook(Hook):
    """Draw what a model sees at each scale, while it is tested.

    In the place of mmseg's ``SegVisualizationHook``; ``test.py --show-dir
    DIR`` and ``--show`` turn it on, and nothing is done, nor said, before.
    Each process writes the pictures of its images and a record of each to
    ``DIR/scale_maps``, see :mod:`hmsa_mmseg.visualization.records`, which
    ``hmsa report DIR`` makes a page of. Without ``--show-dir``, ``DIR``
    is the folder of the log; in training, each validation has its own
    ``val_iter_<n>`` there. ``--show`` alone writes nothing. The folder of
    another run is refused; a repeated run replaces its pictures.

    ``model.test_cfg.scale_maps`` is on only during the predictions that are
    drawn. With test-time augmentation, see
    :func:`.scale_maps_step.predict_with_maps`. The visualizer must be a
    :class:`ScaleMapsVisualizer`.

    Args:
        draw (bool): Whether to draw.
        interval (int): Every how many images of a test are drawn.
        val_images (int): At most how many images of a validation are drawn,
            evenly spaced, of all processes together.
        backend_images (int): At most how many images of a run go to back
            ends such as TensorBoard and Weights & Biases too, from the first
            process.
        show (bool): Whether to show each overlay in a window.
        wait_time (float): Seconds it is shown; 0: until a key.
        backend_args (dict, optional): To read images with; None: those of
            the data set.

    Raises:
        ValueError: If a number makes no sense.
        TypeError: When a test or validation begins, if the visualizer is
            another one.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 1,
        val_images: int = 8,
        backend_images: int = 20,
        show: bool = False,
        wait_time: float = 0.0,
        backend_args: dict | None = None,
    ) -> None:
        self.draw = draw
        name = 'ScaleMapsVisualizationHook: '
        self.interval = check_integer(f'{name}interval', interval, 1)
        self.val_images = check_integer(f'{name}val_images', val_images, 1)
        self.backend_images = check_integer(
            f'{name}backend_images', backend_images
        )
        self.show = show
        self.wait_time = wait_time
        self.backend_args = backend_args

    def _before_epoch(self, runner, mode: str = 'train') -> None:
        if not self.draw or mode == 'train':
            return
        visualizer = runner.visualizer
        if not isinstance(visualizer, ScaleMapsVisualizer):
            raise TypeError(
                'ScaleMapsVisualizationHook needs visualizer=dict(type='
                f"'ScaleMapsVisualizer', ...), got {type(visualizer).__name__}"
            )
        loop = runner.test_loop if mode == 'test' else runner.val_loop
        dataset = loop.dataloader.dataset
        cfg = runner.cfg.get('visualizer') or {}
        # A second runner of a process gets the visualizer of the first.
        self._root = cfg.get('save_dir') or visualizer.save_dir
        self._every = self.interval
        if mode == 'val':
            self._root = os.path.join(self._root, f'val_iter_{runner.iter}')
            self._every = -(-len(dataset) // self.val_images)
        self._num_images = len(dataset)
        self._seen = self._drawn = 0
        self._names = ImageNames(dataset)
        leaf = next(leaf_datasets(dataset))
        self._draw_args = dict(
            dataset_meta=dataset.metainfo,
            root=self._root,
            ignore_index=_ignore_index(loop, leaf),
            tag=mode,
            step=runner.iter,
        )
        self._read_args = self.backend_args
        if self.backend_args is None:
            self._read_args = getattr(leaf, 'backend_args', None)
        steps = getattr(getattr(leaf, 'pipeline', None), 'transforms', ())
        loaders = [s for s in steps if isinstance(s, LoadImageFromFile)]
        loader = [*loaders, LoadImageFromFile()][0]
        self._decode_args = loader.color_type, loader.imdecode_backend
        # Of --show and --show-dir, the one without the other.
        self._writes = not self.show or bool(cfg.get('save_dir'))
        self._run = self._describe(runner, mode, dataset)
        if self._writes:
            # All processes look, as all will write.
            check_run(self._root, self._run)
            if runner.rank == 0:
                write_run(self._root, self._run)

    def _describe(self, runner, mode: str, dataset) -> dict:
        """Say what ``run.json`` says of a run."""
        outer, segmentor = unwrapped(runner.model), segmentor_of(runner.model)
        is_tta = isinstance(outer, BaseTTAModel)
        return dict(
            mode=mode,
            config=os.path.basename(runner.cfg.filename or ''),
            checkpoint=None if mode == 'val' else runner._load_from,
            model=type(segmentor).__name__,
            tta=type(outer).__name__ if is_tta else None,
            scales=sorted(segmentor.test_cfg['scales'])
            if isinstance(segmentor, MultiScaleAttentionSegmentor)
            else [],
            dataset=type(dataset).__name__,
            images=self._names.root,
            iter=runner.iter,
            date=datetime.now().isoformat(timespec='seconds'),
        )

    def _before_iter(
        self, runner, batch_idx, data_batch=None, mode: str = 'train'
    ) -> None:
        """Let the coming prediction make the maps, if it is drawn.

        No hook is called around the model's step alone, so that is replaced,
        once: all is as before when it is over, also when it or anything else
        raises an error.
        """
        if not self.draw or mode == 'train':
            return
        inputs = data_batch['inputs']
        # With test-time augmentation a list of views.
        images = inputs[0] if isinstance(inputs[0], (list, tuple)) else inputs
        positions = range(self._seen, self._seen + len(images))
        if not any(map(self._is_drawn, positions)):
            return
        model, name = runner.model, f'{mode}_step'

        def step(data):
            delattr(model, name)
            return predict_with_maps(model, getattr(model, name), data)

        setattr(model, name, step)

    def _is_drawn(self, position: int) -> bool:
        """Whether to draw the image at a position of this process.

        Samplers deal images out to the processes in turn, and give some
        twice so that all get as many.
        """
        index = position * dist.get_world_size() + dist.get_rank()
        return index < self._num_images and index % self._every == 0

    def _after_iter(
        self,
        runner,
        batch_idx,
        data_batch=None,
        outputs=None,
        mode: str = 'train',
    ) -> None:
        if not self.draw or mode == 'train':
            return
        for output in outputs:
            position, self._seen = self._seen, self._seen + 1
            if not self._is_drawn(position):
                continue
            image = self._read(output.img_path)
            name = self._names(output.img_path)
            if self._writes:
                runner.visualizer.add_scale_maps(
                    name,
                    image,
                    output,
                    to_backends=self._drawn < self.backend_images,
                    **self._draw_args,
                )
            if self.show:
                runner.visualizer.show_datasample(
                    f'{mode}_{name}', image, output, self.wait_time
                )
            self._drawn += 1

    def _read(self, path: str) -> np.ndarray:
        content = fileio.get(path, backend_args=self._read_args)
        flag, backend = self._decode_args
        image, reason = None, 'unknown format'
        # Readers raise errors of many types, or give None.
        try:
            image = mmcv.imfrombytes(content, flag=flag, backend=backend)
        except Exception as error:
            reason = ' '.join(str(error).split())
        if image is None:
            raise ValueError(f'{path}: cannot be read as an image: {reason}')
        return as_rgb(image)

    def after_test_epoch(self, runner, metrics: Mapping | None = None) -> None:
        """Add the metrics to ``run.json`` and say where all is."""
        if not self.draw or not self._writes:
            return
        drawn = torch.tensor(self._drawn)
        dist.all_reduce(drawn)
        self._run['num_images'] = int(drawn)
        self._run['metrics'] = {
            # float32, of which mmseg gives two decimals.
            name: round(float(value), 4)
            for name, value in (metrics or {}).items()
            if np.isscalar(value) and np.isfinite(value)
        }
        if runner.rank == 0:
            write_run(self._root, self._run)
        runner.logger.info(
            f'{int(drawn)} of {self._num_images} images are drawn in '
            f'{os.path.join(self._root, FOLDER)}; a page of them: hmsa '
            f'report {self._root}'
        )

    after_val_epoch = after_test_epoch


def _ignore_index(loop: BaseLoop, dataset: object) -> int:
    """What mmseg's scores ignore: what the metric says, not the data set."""
    evaluator = getattr(loop, 'evaluator', None)
    for one in (*getattr(evaluator, 'metrics', ()), dataset):
        if hasattr(one, 'ignore_index'):
            return one.ignore_index
    return 255
