"""A local file back end of mmengine that writes whole files or none."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from hmsa_mmseg.utils import atomic_file, check_crc

NAME = 'hmsa_atomic'


class AtomicLocalBackend(LocalBackend):
    """mmengine's local back end, whose checkpoints are whole and verified.

    mmengine writes a checkpoint through ``put`` of the back end that
    ``backend_args`` names, so this is where it can be made atomic without
    touching the runner.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file of ``torch.save``.

        What stands there is replaced only after the new content has been
        written, flushed to the disk, read back and compared with its
        checksums.

        Raises:
            OSError: If it cannot be written, for instance on a full disk.
            ValueError: If what was read back is damaged.
        """
        filepath = Path(filepath)
        filepath.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(filepath.parent).free
        if free < len(obj):
            raise OSError(
                errno.ENOSPC,
                f'no space left for a checkpoint of {len(obj):,} bytes: '
                f'{free:,} bytes are free; what was there before is kept',
                os.fspath(filepath),
            )
        with atomic_file(filepath, check=check_crc) as file:
            file.write(obj)


# A reload of this module registers it again.
register_backend(NAME, AtomicLocalBackend, force=True)
