"""Images of a run."""

from __future__ import annotations

from collections.abc import Sequence

from .batches import predict_all
from .context import Run
from .inputs import Item
from .layout import RECORDS
from .pipeline import prefetch


def is_finished(run: Run, item: Item) -> bool:
    """Whether all files of an image are there and good."""
    wanted = {*run.products.files(item.name)}
    if 'report' in run.products.saves:
        # Which pictures there are is known only when they are drawn.
        wanted |= {
            file
            for file in run.finished.recorded(item)
            if file.startswith(f'{RECORDS}/')
        }
    return wanted <= run.finished.files(item)


def do_images(run: Run, items: Sequence[Item]) -> int:
    """Predict images and write what is asked for.

    Args:
        run (Run): What all images have in common.
        items (Sequence[Item]): The images.

    Returns:
        int: How many were done.

    Raises:
        InferError: If one cannot be done and none is to be skipped.
        OSError: If a file cannot be written.
    """
    done = 0
    loaded = prefetch(
        lambda item: run.pipeline.load(item.path), items, run.threads
    )
    for item, image, result in predict_all(
        loaded, run.predictor, run.batch_size, run.failures
    ):
        kept = run.finished.clear(item)
        files = run.products.write(run.out, item.name, image.image, result)
        run.finished.write(item, kept.union(files))
        run.progress.update()
        done += 1
    return done
