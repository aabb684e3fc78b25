"""The images of one process, from the first to the last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

from hmsa_mmseg.autolabel.pairs import PairFiles
from hmsa_mmseg.prediction.inputs import Item
from hmsa_mmseg.prediction.pipeline import Loaded, prefetch

from .disk import is_full
from .errors import BadImageError, SpaceError
from .images import ImageLoader, length_of
from .labelling import Labeller
from .progress import Clock
from .results import Results
from .stopping import Stopping
from .writers import Writers

# Looking at files waits for the disk, or the network that it is on.
_LOOKING_THREADS = 4


def find_undone(
    items: Sequence[Item],
    files: PairFiles,
    accepted: set[str],
    loader: ImageLoader,
) -> list[Item]:
    """Choose the images without a good label.

    Args:
        items (Sequence[Item]): Of this process.
        files (PairFiles): Where labels are.
        accepted (set[str]): Identities of labels that are good.
        loader (ImageLoader): It knows the sizes of images.

    Returns:
        list[Item]: In their order. Good is a label that is whole, as its
        confidence is, of an accepted identity, of the image's size, and of
        a file as long as the image's is.

    Raises:
        OSError: If a label that is there cannot be read.
    """

    def is_done(item: Item) -> bool:
        pair = files.find(item.name)
        return (
            pair is not None
            and pair.identity in accepted
            and pair.image_bytes in (None, length_of(item.path))
            and loader.has_size(item.path, pair.size)
        )

    with ThreadPoolExecutor(_LOOKING_THREADS) as pool:
        done = pool.map(is_done, items)
        return [item for item, found in zip(items, done) if not found]


class Job(NamedTuple):
    """What labels the images of one process.

    Attributes:
        loader (ImageLoader): It loads images.
        labeller (Labeller): It predicts them.
        threads (int): That load images ahead.
        writers (int): Threads that write.
        clock (Clock): It measures where the time goes.
        stopping (Stopping): Asked after each image whether to stop; what is
            predicted is still written.
    """

    loader: ImageLoader
    labeller: Labeller
    threads: int
    writers: int
    clock: Clock
    stopping: Stopping

    def work(self, items: Sequence[Item], results: Results) -> None:
        """Label images.

        Args:
            items (Sequence[Item]): That are to be labelled.
            results (Results): It writes them.

        Raises:
            Stopped: If a signal has asked for it.
            InferError: If too many images cannot be labelled.
            SpaceError: If the disk is full, or will be before the end.
            OSError: If a file cannot be written for another reason.
        """
        self.stopping.wait(True)
        try:
            with closing(results), self.clock.measure('total'):
                loaded = prefetch(
                    lambda item: self.loader.load(item.path),
                    items,
                    self.threads,
                )
                with closing(loaded), Writers(self.writers) as pool:
                    self._loop(loaded, pool, results)
                    with self.clock.measure('writing'):
                        pool.finish()
        except OSError as error:
            if not is_full(error):
                raise
            raise SpaceError(
                f'{results.files.folder}: {error.strerror}: '
                f'{results.written} of {len(items)} images were labelled now; '
                'nothing is half written. With more space the same command '
                'goes on'
            ) from error
        finally:
            self.clock.images += results.written
        self.stopping.wait(False)

    def _loop(
        self,
        loaded: Iterable[tuple[Item, Loaded | BadImageError]],
        pool: Writers,
        results: Results,
    ) -> None:
        images = iter(loaded)
        while self.stopping.received is None:
            with self.clock.measure('reading'):
                item, image = next(images, (None, None))
            if item is None:
                return
            try:
                if isinstance(image, BadImageError):
                    raise image
                with self.clock.measure('model'):
                    result, mode = self.labeller(image)
                _check_size(image, result)
            except BadImageError as error:
                results.fail(item, error)
                continue
            with self.clock.measure('writing'):
                pool.put(results.write, item, result, mode)


def _check_size(image: Loaded, result) -> None:
    found = tuple(result.pred_sem_seg.data.shape[-2:])
    expected = image.image.shape[:2]
    if found != expected:
        raise BadImageError(
            'prediction',
            f'{image.data_sample.img_path}: classes of {found[0]}x{found[1]} '
            f'for an image of {expected[0]}x{expected[1]}: a step of the test '
            'pipeline changes the size of the image for good',
        )
