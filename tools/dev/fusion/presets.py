"""What is compared: Table 1 of the paper, on two models."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple, Optional

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
DEMO = 'r18s1_fcn_1xb4-1k_street-scenes-128x256.py'
MAPILLARY = 'r50-d8_deeplabv3plus_8xb2-225k_mapillary-1024x1024.py'


class Paper(NamedTuple):
    """A row of Table 1 of https://arxiv.org/abs/2005.10821, as cited.

    Not compared with the paper's own pages, which were not at hand.

    Attributes:
        miou (float): On Mapillary Vistas, val, DeepLabV3+ with ResNet-50.
        flops (float): Of training, relative to the single scale.
        time (float): Of a training step, relative to the single scale.
    """

    miou: float
    flops: float
    time: float


class Method(NamedTuple):
    """One row of the table.

    Attributes:
        key (str): Name of its folder and of its entry in the results.
        title (str): Name for people.
        trained (str): Key of the config its checkpoint is trained with.
        tested (str): Key of the config it is tested with.
        test_scales (tuple[float]): Relative image sizes in the test.
        paper (Paper, optional): What the paper reports.
    """

    key: str
    title: str
    trained: str
    tested: str
    test_scales: tuple
    paper: Optional[Paper] = None


METHODS = (
    Method(
        'single',
        'Single scale',
        *('single', 'single'),
        (1.0,),
        Paper(47.7, 1.0, 1.0),
    ),
    # Trained at one scale: it needs no training of its own.
    Method(
        'average',
        'Average pooling',
        *('single', 'average'),
        (0.5, 1.0, 2.0),
        Paper(49.4, 1.0, 1.0),
    ),
    Method(
        'explicit',
        'Explicit (attention to scale)',
        *('explicit', 'explicit'),
        (0.5, 1.0, 2.0),
        Paper(51.4, 5.25, 3.08),
    ),
    Method(
        'hier-2',
        'Hierarchical',
        *('hierarchical', 'hierarchical'),
        (0.5, 1.0),
    ),
    Method(
        'hier-3',
        'Hierarchical',
        *('hierarchical', 'hierarchical'),
        (0.5, 1.0, 2.0),
        Paper(51.6, 1.25, 1.17),
    ),
    Method(
        'hier-4',
        'Hierarchical',
        *('hierarchical', 'hierarchical'),
        (0.25, 0.5, 1.0, 2.0),
        Paper(52.2, 1.25, 1.17),
    ),
)
#: The models that are trained, and the scales they are trained at.
TRAINED = {
    'single': (1.0,),
    'explicit': (0.5, 1.0, 2.0),
    'hierarchical': (0.5, 1.0),
}


class Preset(NamedTuple):
    """The models of one comparison.

    Attributes:
        title (str): Model and data, for people.
        configs (dict[str, Path]): Config of each key of :class:`Method`.
        cpu_size (tuple[int, int]): Image size (H, W) of the step that is
            measured without a GPU.
        batch_size (int): Images in that step.
    """

    title: str
    configs: dict
    cpu_size: tuple
    batch_size: int


PRESETS = {
    'demo': Preset(
        'First stage of ResNet-18 + FCN, generated street scenes',
        dict(
            single=CONFIGS / 'demo' / f'fcn_{DEMO.replace("_fcn", "", 1)}',
            average=CONFIGS / 'fusion' / f'average_{DEMO}',
            explicit=CONFIGS / 'fusion' / f'attnscale_{DEMO}',
            hierarchical=CONFIGS / 'fusion' / f'hmsa_{DEMO}',
        ),
        cpu_size=(128, 256),
        batch_size=4,
    ),
    'mapillary': Preset(
        'DeepLabV3+ with ResNet-50, Mapillary Vistas (65 classes)',
        dict(
            single=CONFIGS
            / 'fusion'
            / f'deeplabv3plus_{MAPILLARY.replace("_deeplabv3plus", "", 1)}',
            average=CONFIGS / 'fusion' / f'average_{MAPILLARY}',
            explicit=CONFIGS / 'fusion' / f'attnscale_{MAPILLARY}',
            hierarchical=CONFIGS / 'fusion' / f'hmsa_{MAPILLARY}',
        ),
        # A 16th of the crop: what two cores do in minutes.
        cpu_size=(256, 256),
        batch_size=2,
    ),
}


def load_config(path):
    """Read a config of this repository."""
    # Here, not above: it takes seconds to import.
    from mmengine.config import Config

    return Config.fromfile(path)


def recipe(preset):
    """Fingerprint of all that decides what a preset trains and tests.

    Args:
        preset (Preset): One of :data:`PRESETS`.

    Returns:
        str: Twelve hexadecimal digits.
    """
    from demo import street_scenes

    texts = [
        json.dumps(load_config(path).to_dict(), sort_keys=True, default=str)
        for path in preset.configs.values()
    ]
    texts.append(Path(street_scenes.__file__).read_text())
    return hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:12]
