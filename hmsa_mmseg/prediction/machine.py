"""The machine that predicts: load, predict, write, image after image.

Used by :mod:`.inferring`, :mod:`.videos`, and
:mod:`hmsa_mmseg.autolabel.labelling`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from mmseg.structures import SegDataSample

from .errors import BadInputError, Stopping, in_one_line
from .inputs import Item
from .loading import Loaded
from .predictor import Predictor
from .progress import Clock, Progress

# Looking at files waits for the disk, or the network that it is on.
_LOOKING_THREADS = 4
# What torch says where the memory of a CPU does not last (c10,
# core/impl/alloc_cpu.cpp), and older versions where that of a GPU does not.
_SAID = ("can't allocate memory", 'not enough memory', 'out of memory')


def find_undone(
    items: Sequence[Item], is_done: Callable[[Item], bool]
) -> list[Item]:
    """Choose what is not finished, in its order."""
    with ThreadPoolExecutor(_LOOKING_THREADS) as pool:
        done = pool.map(is_done, items)
        return [item for item, found in zip(items, done) if not found]


def ahead(
    function: Callable[[Any], Any], values: Iterable, threads: int
) -> Iterator[tuple[Any, Any]]:
    """Apply a function in threads, some values ahead, and keep the order.

    Yields each value and its result, or its :class:`BadInputError`. After
    any other error of the function values that wait are dropped; after one
    of ``values`` they are still worked off. No threads apply it when a
    result is asked for.
    """

    def safe(value: Any) -> Any:
        try:
            return function(value)
        except BadInputError as error:
            return error

    if threads == 0:
        for value in values:
            yield value, safe(value)
        return
    waiting: deque = deque()

    def oldest() -> tuple[Any, Any]:
        value, future = waiting.popleft()
        try:
            return value, future.result()
        except BaseException:
            for _, other in waiting:
                other.cancel()
            raise

    with ThreadPoolExecutor(threads) as pool:
        for value in values:
            waiting.append((value, pool.submit(safe, value)))
            if len(waiting) > 2 * threads or waiting[0][1].done():
                yield oldest()
        while waiting:
            yield oldest()


@dataclass
class Machine:
    """Predicts rows of images; threads write meanwhile.

    Attributes:
        stopping (Stopping): Asked after each batch whether to stop; what is
            predicted is still written.
        writers (int): Threads that write.
        batch_size (int): Images that run at once, if they are of one shape:
            none is padded for another.
        oom (str): What to do where memory does not last: ``fail``, ``slide``
            or ``cpu``. Scales are never changed: results would be others.
    """

    predictor: Predictor
    stopping: Stopping
    writers: int
    batch_size: int = 1
    oom: str = 'fail'
    clock: Clock = field(default_factory=Clock)

    def work(
        self,
        loaded: Generator[tuple[Any, Loaded | BadInputError], None, None],
        write: Callable[[Any, Loaded, SegDataSample, str], None],
        fail: Callable[[Any, BadInputError], None],
        progress: Progress,
    ) -> None:
        """Predict and write images in their order.

        Args:
            loaded (Generator): Pairs of anything and a prepared image, or
                what is wrong with it.
            write (Callable): Given what came with an image, the image, its
                result on the CPU and how it was made: ``whole``, ``slide`` or
                ``cpu``. Threads call it.
            fail (Callable): Given what came with an image that cannot be
                done, and why. What it raises ends the work, after all that
                was predicted is written.
            progress (Progress): Told of each image.

        Raises:
            Stopped: If a signal has asked for it.
        """

        def write_one(outcome: tuple) -> None:
            write(*outcome)
            progress.update()

        self.stopping.wait(True)
        before = progress.done
        with closing(loaded), self.clock.measure('total'):
            outcomes = self._outcomes(loaded, fail, progress)
            for _ in ahead(write_one, outcomes, self.writers):
                pass
        self.clock.images += progress.done - before
        self.stopping.wait(False)

    def _outcomes(
        self, loaded: Iterator, fail: Callable, progress: Progress
    ) -> Iterator[tuple[Any, Loaded, SegDataSample, str]]:
        batches = self._batches(loaded)
        while self.stopping.received is None:
            with self.clock.measure('reading'):
                batch = next(batches, None)
            if batch is None:
                return
            with self.clock.measure('model'):
                outcomes = self._predict([image for _, image in batch])
            for (key, image), outcome in zip(batch, outcomes):
                if isinstance(outcome, BadInputError):
                    progress.update(failed=True)
                    fail(key, outcome)
                else:
                    yield (key, image, *outcome)

    def _batches(self, loaded: Iterator) -> Iterator[list[tuple]]:
        """Yield images of one shape, and alone what cannot be loaded."""
        batch: list[tuple] = []
        for key, image in loaded:
            is_bad = isinstance(image, BadInputError)
            if batch and (
                is_bad or image.inputs.shape != batch[0][1].inputs.shape
            ):
                yield batch
                batch = []
            batch.append((key, image))
            if is_bad or len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _predict(
        self, images: Sequence[Loaded | BadInputError]
    ) -> list[tuple[SegDataSample, str] | BadInputError]:
        """Predict images of one shape; those together that go together."""
        if isinstance(images[0], BadInputError):
            return [*images]
        results, said, is_oom = self._try(images)
        mode = self.predictor.mode
        if results is None and len(images) > 1:
            return [self._predict([image])[0] for image in images]
        size = images[0].inputs.shape[-2:]
        if is_oom and self.oom not in ('fail', mode):
            mode = self.oom
            with self.predictor.in_mode(mode, size):
                results, again, _ = self._try(images)
            said += f'; with --oom {mode}: {again}'
        if results is not None:
            return [
                _problem_of(image, result) or (result, mode)
                for image, result in zip(images, results)
            ]
        reason, problem = 'prediction', 'cannot be predicted'
        at = f'{size[0]}x{size[1]}'
        if is_oom:
            scales = ', '.join(f'{s:g}' for s in self.predictor.scales) or '1'
            at += f' at scales {scales}'
            reason, problem = 'out-of-memory', 'memory does not last'
            said += '; --slide and --dtype bfloat16 need less of it'
        path = images[0].data_sample.img_path
        return [BadInputError(reason, f'{path}: {problem} for {at}: {said}')]

    def _try(
        self, images: Sequence[Loaded]
    ) -> tuple[list[SegDataSample] | None, str, bool]:
        """Predict, or give what was said, and whether it is of memory."""
        try:
            return self.predictor(images), '', False
        # Out of memory, an image too small for the network: of any type.
        except Exception as error:
            # Not the error itself, which holds on to the memory of the call.
            said, is_oom = in_one_line(error), is_out_of_memory(error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None, said, is_oom


def _problem_of(image: Loaded, result: SegDataSample) -> BadInputError | None:
    """Find what is wrong with a result."""
    path = image.data_sample.img_path
    found = tuple(result.pred_sem_seg.data.shape[-2:])
    expected = image.image.shape[:2]
    if found != expected:
        return BadInputError(
            'prediction',
            f'{path}: classes of {found[0]}x{found[1]} for an image of '
            f'{expected[0]}x{expected[1]}: a step of the test pipeline '
            'changes the size of the image for good',
        )
    confidence = result.get('confidence')
    if confidence is not None and not confidence.data.isfinite().all():
        return BadInputError(
            'prediction', f'{path}: the model gives NaN for some pixels'
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of a GPU or CPU, did not last."""
    # Its name before torch 2.5.
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(s in text for s in _SAID)
