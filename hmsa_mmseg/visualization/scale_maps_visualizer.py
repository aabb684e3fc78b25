"""A visualizer of mmengine that shows what each scale says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.visualization import LocalVisBackend
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from .colours import as_palette
from .counts import make_record
from .pictures import draw_overlay, draw_pictures
from .records import Record, write_pictures, write_record
from .sample_maps import field_array


@VISUALIZERS.register_module()
class ScaleMapsVisualizer(SegLocalVisualizer):
    """Writes all pictures of a result, and counts for a report.

    In the place of mmseg's visualizer, also for ``MMSegInferencer``, whose
    overlays then have the labels of :mod:`.class_labels`.

    Args:
        name (str): As in mmengine.
        save_dir (str, optional): Likewise.
        alpha (float): Part of the class colours in overlays, 0 to 1.
        classes (Sequence[str], optional): Names, where neither a runner nor
            ``MMSegInferencer`` sets them; None: Cityscapes'.
        palette (Sequence, optional): Colours likewise, RGB, 0 to 255.
        **kwargs: As in mmseg's ``SegLocalVisualizer``.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        save_dir: str | None = None,
        alpha: float = 0.5,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(name, save_dir=save_dir, alpha=alpha, **kwargs)
        # Not by mmseg's constructor, which (1.2.2) swaps the two.
        if classes is not None or palette is not None:
            classes = classes or self.dataset_meta['classes']
            self.dataset_meta = dict(classes=classes, palette=palette)
        self.save_dir = save_dir

    def add_scale_maps(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample,
        dataset_meta: Mapping[str, Sequence],
        root: str | os.PathLike,
        ignore_index: int = 255,
        tag: str = 'test',
        step: int = 0,
        to_backends: bool = True,
    ) -> Record:
        """Draw a result, write its pictures and its record.

        Files are written whichever process calls it. Back ends of mmengine,
        such as TensorBoard or Weights & Biases, which keep one run each, take
        pictures from the first process alone, as ``<tag>/<name>/<picture>``;
        ``LocalVisBackend`` takes none, as it would only copy the files.

        Args:
            name (str): Path of the image below those of its data set.
            image (ndarray): RGB, uint8 (H, W, 3).
            data_sample (SegDataSample): Its result.
            dataset_meta (Mapping): With ``classes`` and ``palette``.
            root (str | os.PathLike): Folder of the run; see :mod:`.records`.
            ignore_index (int): Of the labels.
            tag (str): First part of names in back ends.
            step (int): Of the training, for the back ends.
            to_backends (bool): Whether they take it.

        Raises:
            OSError: If a file cannot be written.
            ValueError: If the maps do not fit the image or each other.
        """
        classes = dataset_meta['classes']
        palette = dataset_meta.get('palette')
        pictures = draw_pictures(
            image, data_sample, classes, palette, ignore_index, self.alpha
        )
        # The record last: where it is, the pictures are.
        paths = write_pictures(root, name, pictures)
        record = make_record(
            name, data_sample, classes, palette, paths, ignore_index
        )
        write_record(root, record)
        if to_backends:
            stem = Path(name).with_suffix('').as_posix()
            for key, picture in pictures.items():
                self._add_to_backends(f'{tag}/{stem}/{key}', picture, step)
        return record

    @master_only
    def show_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample,
        wait_time: float = 0,
    ) -> None:
        """Show labels and prediction in a window, and write nothing.

        For so many seconds; 0: until a key.
        """
        drawn = self._side_by_side(image, data_sample)
        self.show(drawn, win_name=name, wait_time=wait_time)

    @master_only
    def _add_to_backends(
        self, name: str, picture: np.ndarray, step: int
    ) -> None:
        for backend in self._vis_backends.values():
            if not isinstance(backend, LocalVisBackend):
                backend.add_image(name, picture, step)

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        with_labels: bool | None = True,
    ) -> None:
        """Draw labels and prediction side by side.

        Arguments are those of mmseg's ``SegLocalVisualizer``. What is given
        an ``out_file`` does not go to the back ends.

        Raises:
            TypeError: If the result is a depth map.
        """
        keys = [] if data_sample is None else data_sample.keys()
        if any('depth_map' in key for key in keys):
            raise TypeError(
                'ScaleMapsVisualizer draws no depth maps: use '
                "visualizer=dict(type='SegLocalVisualizer')"
            )
        drawn = self._side_by_side(
            image, data_sample, draw_gt, draw_pred, bool(with_labels)
        )
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(mmcv.rgb2bgr(drawn), out_file)
        else:
            self.add_image(name, drawn, step)

    def _side_by_side(
        self,
        image: np.ndarray,
        data_sample: SegDataSample | None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        with_labels: bool = True,
    ) -> np.ndarray:
        """Overlays of what is asked for and there; else the image."""
        image = np.ascontiguousarray(image)
        asked = dict(gt_sem_seg=draw_gt, pred_sem_seg=draw_pred)
        fields = [
            field
            for field, is_asked in asked.items()
            if is_asked and data_sample is not None and field in data_sample
        ]
        if not fields:
            return image
        classes = self.dataset_meta['classes']
        palette = as_palette(self.dataset_meta.get('palette'), len(classes))
        look = (classes, palette, self.alpha, with_labels)
        return np.concatenate(
            [
                draw_overlay(image, field_array(data_sample, field)[0], *look)
                for field in fields
            ],
            axis=1,
        )
