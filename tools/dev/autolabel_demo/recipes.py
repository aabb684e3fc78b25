"""What the demo trains, and in which order.

All but the first go on from its weights, by one recipe: the same network,
iterations and schedule. They differ in the labels that they see.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
#: What is the same in the names of all configs.
NAME = 'autolabel-{}_r18s1_fcn_1xb4-{}_street-scenes-128x256.py'


class Recipe(NamedTuple):
    """One row of the table.

    Attributes:
        key (str): Name of its folder and of its entry in the results.
        title (str): Name for people.
        labels (str): What it learns from, for people.
        config (str): What is its own in the name of its config.
        round (int): Of the auto-labels that it learns from; 0: of none.
        length (str): Of its training, in the name of its config.
    """

    key: str
    title: str
    labels: str
    config: str
    round: int = 0
    length: str = '0.3k'

    @property
    def path(self) -> Path:
        """Its config."""
        return CONFIGS / 'demo' / NAME.format(self.config, self.length)


#: In place of weights that were trained on other data.
START = Recipe('start', 'Start of all others', 'fine', 'start', length='0.6k')
TEACHER = Recipe('teacher', 'Teacher', 'fine, and coarse polygons', 'teacher')
FINE_ONLY = Recipe('fine', 'Fine labels only', 'fine', 'fine')
#: Of round 1, one for each threshold.
STUDENTS = (
    Recipe(
        'student-0.5',
        'Student, threshold 0.5',
        "fine, and the teacher's",
        'student-t50',
        round=1,
    ),
    Recipe(
        'student-0.9',
        'Student, threshold 0.9',
        "fine, and the teacher's",
        'student-t90',
        round=1,
    ),
)
#: Its config is that of the student that labels for it.
SECOND = Recipe(
    'student-2',
    'Student of the second round',
    "fine, and a student's",
    'student-t50',
    round=2,
)
ALL_TRUE = Recipe(
    'all-true', 'True labels of all images', 'fine, and the true ones', 'true'
)
#: The rows of the table.
RECIPES = (START, FINE_ONLY, TEACHER, *STUDENTS, SECOND, ALL_TRUE)


def better_student(val: dict[str, float]) -> Recipe:
    """Choose who labels in the second round: by mIoU on the val split.

    Args:
        val (dict[str, float]): mIoU of each recipe's key.
    """
    return max(STUDENTS, key=lambda recipe: val[recipe.key])
