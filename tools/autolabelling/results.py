"""From results of the model to files, and what cannot be labelled.

Shape shorthand in this module:
    K: classes, h, w: size of an image as its loader gives it.
"""

from __future__ import annotations

import os
import threading

import numpy as np
from mmseg.structures import SegDataSample

from hmsa_mmseg.autolabel.json_lines import LineWriter
from hmsa_mmseg.autolabel.merging import manifest_line
from hmsa_mmseg.autolabel.pairs import PairFiles
from hmsa_mmseg.datasets.autolabel_files import (
    FAILURES_FILE,
    MANIFEST_FILE,
    shard_file,
)
from hmsa_mmseg.datasets.confidence import encode_confidence
from hmsa_mmseg.prediction.errors import InferError
from hmsa_mmseg.prediction.inputs import Item
from hmsa_mmseg.prediction.products import classes_of

from .disk import SpaceWatch
from .errors import BadImageError
from .images import length_of
from .progress import Progress
from .shards import Shard


class Results:
    """Writes labels of one process, and lists them, from several threads.

    Args:
        files (PairFiles): Where labels are.
        identity (str): Of teacher and settings.
        label_ids (np.ndarray): (K,), what stands for each class in the files.
        shard (Shard): Of this process.
        max_errors (int): The run stops when so many images have failed.
        watch (SpaceWatch): Told of what is written.
        progress (Progress): Told of each image.

    Raises:
        OSError: If the folder cannot be written to.
    """

    def __init__(
        self,
        files: PairFiles,
        identity: str,
        label_ids: np.ndarray,
        shard: Shard,
        max_errors: int,
        watch: SpaceWatch,
        progress: Progress,
    ) -> None:
        self.files = files
        self.identity = identity
        self.label_ids = label_ids.astype(np.uint8)
        self.max_errors = max_errors
        self.watch = watch
        self.progress = progress
        self.written = 0
        self.failed = 0
        self._lock = threading.Lock()
        share = shard.index, shard.count
        self._manifest, self._failures = (
            LineWriter(files.folder / shard_file(name, *share))
            for name in (MANIFEST_FILE, FAILURES_FILE)
        )

    def write(self, item: Item, result: SegDataSample, mode: str) -> None:
        """Write the label of an image, then list it.

        Args:
            item (Item): The image.
            result (SegDataSample): Of it, with classes and ``confidence``.
            mode (str): How it was made.

        Raises:
            InferError: If the rest will not fit on the disk, or too many
                images have failed.
            OSError: If a file cannot be written.
        """
        try:
            confidence = result.confidence.data[0].numpy()
            # Also where it is not kept: NaN is no label.
            prob = encode_confidence(confidence)
        except ValueError as error:
            self.fail(
                item,
                BadImageError('prediction', f'{item.path}: {error}'),
            )
            return
        label = self.label_ids[classes_of(result)]
        hashes = self.files.write(
            *(item.name, label, prob, self.identity, mode),
            image_bytes=length_of(item.path),
        )
        path = os.path.abspath(item.path)
        self._manifest.add(
            manifest_line(item.name, path, label.shape, hashes, mode)
        )
        with self._lock:
            self.written += 1
            self.progress.update()
        self.watch.add(self.files.bytes_on_disk(item.name))

    def fail(self, item: Item, error: InferError) -> None:
        """List an image that cannot be labelled; it has no label then.

        Raises:
            InferError: If too many have failed.
            OSError: If it cannot be listed.
        """
        self.files.remove(item.name)
        self._failures.add(
            dict(
                name=item.name,
                image=os.path.abspath(item.path),
                reason=getattr(error, 'reason', 'prediction'),
                error=' '.join(str(error).split()),
            )
        )
        with self._lock:
            self.failed += 1
            self.progress.update(failed=True)
            if self.failed < self.max_errors:
                return
        raise InferError(
            f'{self.failed} images could not be labelled, the last: {error}; '
            f'expected fewer, or --max-errors above {self.max_errors}. They '
            f'are listed in {self.files.folder}/{FAILURES_FILE[:-6]}.*; what '
            'is done stays'
        )

    def close(self) -> None:
        """Bring the lists to the disk.

        Raises:
            OSError: If they cannot be written.
        """
        try:
            self._manifest.close()
        finally:
            self._failures.close()
