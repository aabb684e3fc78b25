"""What the demo trains, and in which order.

All are trained by one recipe: the same network, first weights, iterations and
schedule. They differ in the labels that they see.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
#: What the names of all configs end with.
END = '_r18s1_fcn_1xb4-0.8k_street-scenes-96x192.py'
FINE = CONFIGS / 'demo' / f'autolabel-fine{END}'


class Recipe(NamedTuple):
    """One row of the table.

    Attributes:
        key (str): Name of its folder and of its entry in the results.
        title (str): Name for people.
        labels (str): What it learns from, for people.
        config (str): What is its own in the name of its config.
        round (int): Of the auto-labels that it learns from; 0: of none.
    """

    key: str
    title: str
    labels: str
    config: str
    round: int = 0

    @property
    def path(self) -> Path:
        """Its config."""
        return CONFIGS / 'demo' / f'autolabel-{self.config}{END}'


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
RECIPES = (FINE_ONLY, TEACHER, *STUDENTS, SECOND, ALL_TRUE)


def better_student(val: dict[str, float]) -> Recipe:
    """Choose who labels in the second round: by mIoU on the val split.

    Args:
        val (dict[str, float]): mIoU of each recipe's key.
    """
    return max(STUDENTS, key=lambda recipe: val[recipe.key])
