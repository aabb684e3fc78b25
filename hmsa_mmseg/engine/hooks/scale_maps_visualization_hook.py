"""Pictures of what each scale says, from mmseg's own test.py and train.py."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime

import mmcv
import numpy as np
import torch
from mmengine import dist, fileio
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import BaseLoop
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from hmsa_mmseg.visualization import (
    FOLDER,
    ImageNames,
    ScaleMapsVisualizer,
    check_run,
    leaf_datasets,
    write_run,
)

from ..scale_maps_step import (
    has_scale_maps,
    predict_with_maps,
    segmentor_of,
    unwrapped,
)


@HOOKS.register_module()
class ScaleMapsVisualizationHook(Hook):
    """Draw what a model sees at each scale, while it is tested.

    In the place of mmseg's ``SegVisualizationHook``; ``test.py --show-dir
    DIR`` and ``--show`` turn it on, and nothing is done, nor said, before.
    Each process writes the pictures of its images and a record of each to
    ``DIR/scale_maps``, see :mod:`hmsa_mmseg.visualization.records`, which
    ``tools/report.py DIR`` makes a page of. Without ``--show-dir``, ``DIR``
    is the folder of the log; in training, each validation has its own
    ``val_iter_<n>`` there. ``--show`` alone writes nothing. The folder of
    another run is refused; a repeated run replaces its pictures.

    ``model.test_cfg.scale_maps`` is on only during the predictions that are
    drawn. With test-time augmentation, see
    :func:`..scale_maps_step.predict_with_maps`. The visualizer must be a
    :class:`ScaleMapsVisualizer`.

    Args:
        draw (bool): Whether to draw. Defaults to False.
        interval (int): Every how many images of a test are drawn. Defaults
            to 1.
        val_images (int): At most how many images of a validation are drawn,
            evenly spaced, of all processes together. Defaults to 8.
        backend_images (int): At most how many images of a run go to back
            ends such as TensorBoard and Weights & Biases too, from the first
            process. Defaults to 20.
        show (bool): Whether to show each overlay in a window. Defaults to
            False.
        wait_time (float): Seconds it is shown. Defaults to 0, until a key.
        backend_args (dict, optional): To read images with. Defaults to None,
            those of the data set.

    Raises:
        ValueError: If a number makes no sense.
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
        for name, value, least in (
            ('interval', interval, 1),
            ('val_images', val_images, 1),
            ('backend_images', backend_images, 0),
        ):
            is_int = isinstance(value, int) and not isinstance(value, bool)
            if not is_int or value < least:
                raise ValueError(
                    f'ScaleMapsVisualizationHook: {name} must be an integer '
                    f'of {least} or more, got {value!r}'
                )
        self.draw = draw
        self.interval = interval
        self.val_images = val_images
        self.backend_images = backend_images
        self.show = show
        self.wait_time = wait_time
        self.backend_args = backend_args

    def before_test(self, runner) -> None:
        """Begin to draw a test.

        Raises:
            TypeError: If the visualizer is another one.
            ValueError: If the folder has pictures of another run.
        """
        if self.draw:
            loop = runner.test_loop
            self._begin(runner, 'test', loop, self.interval)

    def before_val(self, runner) -> None:
        """Begin to draw a validation; raises as :meth:`before_test`."""
        if self.draw:
            loop = runner.val_loop
            num_images = len(loop.dataloader.dataset)
            interval = -(-num_images // self.val_images)
            self._begin(runner, 'val', loop, interval)

    def _begin(self, runner, mode: str, loop: BaseLoop, interval: int) -> None:
        visualizer = runner.visualizer
        if not isinstance(visualizer, ScaleMapsVisualizer):
            raise TypeError(
                'ScaleMapsVisualizationHook needs visualizer=dict(type='
                f"'ScaleMapsVisualizer', ...), got {type(visualizer).__name__}"
            )
        dataset = loop.dataloader.dataset
        leaf = next(leaf_datasets(dataset))
        self._mode, self._step = mode, runner.iter
        self._every, self._num_images = interval, len(dataset)
        self._meta = dataset.metainfo
        self._names = ImageNames.of_dataset(dataset)
        self._ignore_index = _ignore_index(loop, leaf)
        self._read_args = self.backend_args
        if self.backend_args is None:
            self._read_args = getattr(leaf, 'backend_args', None)
        self._seen = self._drawn = 0
        self._root = visualizer.save_dir
        if mode == 'val':
            self._root = os.path.join(self._root, f'val_iter_{runner.iter}')
        # Of --show and --show-dir, the one without the other.
        cfg = runner.cfg.get('visualizer') or {}
        self._writes = not self.show or bool(cfg.get('save_dir'))
        self._run = self._describe(runner, dataset)
        if self._writes:
            # All processes look, as all will write.
            check_run(self._root, self._run)
            if runner.rank == 0:
                write_run(self._root, self._run)

    def _describe(self, runner, dataset) -> dict:
        segmentor = segmentor_of(runner.model)
        shows_scales = has_scale_maps(segmentor)
        if 'memory_budget' in (segmentor.test_cfg or {}) and not shows_scales:
            runner.logger.warning(
                'model.test_cfg.memory_budget is set: pictures are without '
                'the maps of the scales, which it does not count'
            )
        outer = unwrapped(runner.model)
        is_tta = isinstance(outer, BaseTTAModel)
        scales = sorted(segmentor.test_cfg['scales']) if shows_scales else []
        return dict(
            mode=self._mode,
            config=os.path.basename(runner.cfg.filename or ''),
            checkpoint=None if self._mode == 'val' else runner._load_from,
            model=type(segmentor).__name__,
            tta=type(outer).__name__ if is_tta else None,
            scales=scales,
            dataset=type(dataset).__name__,
            images=self._names.root,
            iter=runner.iter,
            date=datetime.now().isoformat(timespec='seconds'),
        )

    def before_test_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Let the coming prediction make the maps, if it is drawn."""
        self._arm(runner.model, 'test_step', data_batch)

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Let the coming prediction make the maps, if it is drawn."""
        self._arm(runner.model, 'val_step', data_batch)

    def _arm(self, model, name: str, data_batch: Mapping) -> None:
        """Replace one step of the model, once.

        No hook is called around the step alone. This way all is as before
        when it is over, also when it or anything else raises an error.
        """
        if not self.draw:
            return
        first = data_batch['inputs'][0]
        views = data_batch['inputs']
        size = len(first if isinstance(first, (list, tuple)) else views)
        if not any(map(self._is_drawn, range(self._seen, self._seen + size))):
            return

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

    def after_test_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Draw what was predicted.

        Raises:
            OSError: If an image cannot be read or a picture be written.
            ValueError: If labels, prediction and image do not fit.
        """
        self._draw(runner.visualizer, outputs)

    def after_val_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Draw what was predicted; raises as :meth:`after_test_iter`."""
        self._draw(runner.visualizer, outputs)

    def _draw(self, visualizer, outputs: Sequence[SegDataSample]) -> None:
        if not self.draw:
            return
        for output in outputs:
            position, self._seen = self._seen, self._seen + 1
            if not self._is_drawn(position):
                continue
            image = self._read(output.img_path)
            name = self._names(output.img_path)
            if self._writes:
                visualizer.add_scale_maps(
                    name,
                    image,
                    output,
                    self._meta,
                    root=self._root,
                    ignore_index=self._ignore_index,
                    tag=self._mode,
                    step=self._step,
                    to_backends=self._drawn < self.backend_images,
                )
            if self.show:
                visualizer.show_datasample(
                    f'{self._mode}_{name}', image, output, self.wait_time
                )
            self._drawn += 1

    def _read(self, path: str) -> np.ndarray:
        content = fileio.get(path, backend_args=self._read_args)
        image = mmcv.imfrombytes(content, channel_order='rgb')
        if image is None:
            raise ValueError(f'{path}: cannot be read as an image')
        return image

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Add the metrics to ``run.json`` and say where all is."""
        self._end(runner, metrics)

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Add the metrics to ``run.json`` and say where all is."""
        self._end(runner, metrics)

    def _end(self, runner, metrics: Mapping | None) -> None:
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
            f'{os.path.join(self._root, FOLDER)}; a page of them: python '
            f'tools/report.py {self._root}'
        )


def _ignore_index(loop: BaseLoop, dataset: object) -> int:
    """What mmseg's scores ignore: what the metric says, not the data set."""
    evaluator = getattr(loop, 'evaluator', None)
    for one in (*getattr(evaluator, 'metrics', ()), dataset):
        if hasattr(one, 'ignore_index'):
            return one.ignore_index
    return 255
