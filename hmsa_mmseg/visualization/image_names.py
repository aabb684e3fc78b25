"""Names of images: paths below the images of their data set."""

from __future__ import annotations

import os
import posixpath
from contextlib import suppress

from hmsa_mmseg.datasets import leaf_datasets


class ImageNames:
    """Names that do not collide, whatever folders images lie in.

    Of a data set of mmseg, also a wrapped one. If it has several folders of
    images, names begin at the folder that holds all of them.
    """

    def __init__(self, dataset: object) -> None:
        prefixes = [
            getattr(leaf, 'data_prefix', None) or {}
            for leaf in leaf_datasets(dataset)
        ]
        roots = [prefix.get('img_path') for prefix in prefixes]
        roots = sorted({_normalized(root) for root in roots if root})
        self.root = roots[0] if len(roots) == 1 else ''
        # Of URLs and paths, or of drives, no folder holds all.
        if len(roots) > 1 and not any('://' in root for root in roots):
            with suppress(ValueError):
                self.root = posixpath.commonpath(roots)

    def __call__(self, path: str) -> str:
        """Give the path of an image below the root, with ``/``.

        Of an image that is not below it, it is the whole path, without the
        first ``/``.
        """
        path = _normalized(path)
        start = self.root.rstrip('/') + '/'
        if self.root and path.startswith(start):
            return path[len(start) :]
        return path.replace('://', '/').replace(':', '').lstrip('/')


def _normalized(path: str) -> str:
    path = os.fspath(path)
    if '://' in path:
        return path
    return os.path.abspath(path).replace(os.sep, '/')
