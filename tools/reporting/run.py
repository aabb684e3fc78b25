"""A run to report on: what one ``--show-dir`` of mmseg's test.py holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hmsa_mmseg.visualization import Record, read_records
from hmsa_mmseg.visualization import read_run as read_info


class ReportError(ValueError):
    """Something that the report needs is missing or does not fit."""


@dataclass(frozen=True)
class Run:
    """The records of a show-dir.

    Attributes:
        name (str): What the page calls it.
        folder (Path): The show-dir.
        records (list[Record]): One per image, of the same classes and scales.
        info (dict): Of ``run.json``; empty if there is none.
    """

    name: str
    folder: Path
    records: list[Record]
    info: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.records[0].classes

    @property
    def palette(self) -> list[list[int]]:
        """Red, green and blue of each class, 0 to 255."""
        return self.records[0].palette

    @property
    def scales(self) -> tuple[float, ...]:
        """Relative image sizes, lowest first; none of a stock model."""
        return self.records[0].scales

    @cached_property
    def by_image(self) -> dict[str, Record]:
        """The records by the path of their image."""
        return {record.image: record for record in self.records}

    @cached_property
    def labelled(self) -> list[Record]:
        """The records of the images that have a ground truth."""
        return [r for r in self.records if r.intersect is not None]


def read_run(folder: Path, name: str) -> Run:
    """Read a show-dir.

    Args:
        folder (Path): That holds the folder ``scale_maps``.
        name (str): What the page shall call the run.

    Returns:
        Run: With one image or more.

    Raises:
        ReportError: If there are no records.
        ValueError: If a file is damaged, or they are of different runs; the
            message names it.
    """
    try:
        records = read_records(folder)
    except FileNotFoundError as error:
        raise ReportError(
            f'{error}, with ScaleMapsVisualizer and '
            'ScaleMapsVisualizationHook in the config'
        ) from error
    return Run(name, folder, records, read_info(folder) or {})
