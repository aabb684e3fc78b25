"""Scoring at the size of the resized image, or at that of the file."""

from __future__ import annotations

from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from .options_repr import OptionsRepr

_LABEL_KEYS = ('gt_seg_map', 'seg_fields')


@TRANSFORMS.register_module()
class EvalAtInputSize(OptionsRepr, BaseTransform):
    """Score predictions at the size the network saw, not the file's.

    mmseg brings logits back to the size of the image file and compares them
    with the label there. The authors resize image and label alike and score
    at that size (NVIDIA/semantic-segmentation, datasets/__init__.py: Mapillary
    is scored at a long edge of 2177).

    The label is loaded before this step. A sample whose data set says
    ``scored_at='file'``, see :class:`HMSAMapillaryDataset`, is scored as in
    mmseg: its label is left as it is. So is a sample without label, as in
    inference: its prediction gets the size of the file.

    Args:
        resize (dict, optional): Config of the step that resizes image and,
            unless it is to stay, label. None: that step goes before this one,
            and samples can be scored at the size of the input alone.

    Raises:
        ValueError: If image and label have different sizes, or a label that
            is to stay as it is has been resized.
    """

    def __init__(self, resize: dict | None = None) -> None:
        super().__init__()
        self.resize = None if resize is None else TRANSFORMS.build(resize)

    def transform(self, results: dict) -> dict:
        """Resize, and set ``ori_shape`` to the size at which to score."""
        stays = results.get('scored_at') == 'file'
        if self.resize is not None:
            kept = {}
            if stays:
                kept = {k: results.pop(k) for k in _LABEL_KEYS if k in results}
            results = self.resize(results)
            results.update(kept)
        label = results.get('gt_seg_map')
        if label is None:
            return results
        if stays:
            _check_label(
                results,
                results['ori_shape'],
                "with scored_at='file', EvalAtInputSize(resize=dict("
                "type='Resize', ...)) takes the place of `Resize`",
            )
            return results
        size = results['img'].shape[:2]
        _check_label(
            results, size, 'in the pipeline, labels are loaded before `Resize`'
        )
        results['ori_shape'] = size
        return results


def _check_label(results: dict, size: tuple[int, int], cure: str) -> None:
    label = results['gt_seg_map']
    if label.shape != tuple(size[:2]):
        raise ValueError(
            f'EvalAtInputSize: {results.get("seg_map_path")} is '
            f'{label.shape[0]}x{label.shape[1]} here, its image '
            f'{size[0]}x{size[1]}; expected the same size: {cure}'
        )
