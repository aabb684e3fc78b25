"""Scoring at the size of the resized image."""

from __future__ import annotations

from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class EvalAtInputSize(BaseTransform):
    """Score predictions at the size the network saw, not the file's.

    mmseg brings logits back to the size of the image file and compares them
    with the label there. The authors resize image and label alike and score
    at that size (NVIDIA/semantic-segmentation, datasets/__init__.py: Mapillary
    is scored at a long edge of 2177), which also saves memory: 65 classes
    at 24 megapixels are 6 GB of float32.

    Goes after ``Resize``, and the label must be loaded before it. A sample
    without label, as in inference, is left as it is: its prediction gets the
    size of the file.

    Raises:
        ValueError: If image and label have different sizes.
    """

    def transform(self, results: dict) -> dict:
        """Set ``ori_shape`` to the size of ``img``."""
        label = results.get('gt_seg_map')
        if label is None:
            return results
        size = results['img'].shape[:2]
        if label.shape != size:
            raise ValueError(
                f'EvalAtInputSize: {results.get("seg_map_path")} is '
                f'{label.shape[0]}x{label.shape[1]} here, its image '
                f'{size[0]}x{size[1]}; expected the same size: in the '
                'pipeline, labels are loaded before `Resize`'
            )
        results['ori_shape'] = size
        return results

    def __repr__(self) -> str:
        """Return the name."""
        return f'{self.__class__.__name__}()'
