"""Iteration-based training that resumes without reading past data again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain, islice, repeat

from mmengine.dataset import InfiniteSampler
from mmengine.runner import IterBasedTrainLoop
from mmseg.registry import LOOPS
from torch.utils.data import BatchSampler, DataLoader

from ..process_groups import close_gloo_at_exit


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(IterBasedTrainLoop):
    """An ``IterBasedTrainLoop`` that skips past samples when it resumes.

    mmengine's loop loads the batch of each past iteration and drops it, which
    takes hours late in a long run. This one asks the sampler to go on where
    the iteration number says: through its ``skip(num_samples)``, the number
    of samples of this process since the start of training, or by drawing and
    dropping indices from mmengine's ``InfiniteSampler``. With any other
    sampler, one that is not endless, or a batch sampler of its own kind, it
    loads them as mmengine does, and says so.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): A data loader or its config.
        *args: As in :class:`mmengine.runner.IterBasedTrainLoop`.
        **kwargs: Likewise.
    """

    def __init__(self, runner, dataloader, *args, **kwargs):
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(
                dataloader,
                seed=runner.seed,
                diff_rank_seed=runner._randomness_cfg.get(
                    'diff_rank_seed', False
                ),
            )
        # The parent starts the workers here, before a checkpoint says where
        # to start.
        super().__init__(runner, _StartedLater(dataloader), *args, **kwargs)
        self.dataloader = dataloader

    def run(self):
        """Train; a run that is complete already ends at once."""
        close_gloo_at_exit(self.runner)
        skips = self._iter >= self._max_iters or self._skip()
        self.dataloader_iterator = _Batches(
            repeat(None, self._iter if skips else 0), self.dataloader_iterator
        )
        return super().run()

    def _skip(self) -> bool:
        """Let the sampler leave out what was seen, if it can."""
        if self._iter == 0:
            return True
        sampler = self.dataloader.batch_sampler
        if type(sampler) is BatchSampler:
            past = self._iter * sampler.batch_size
            sampler = sampler.sampler
            # With one that ends, the parent counts epochs from the resume.
            if hasattr(sampler, 'skip') and getattr(sampler, 'infinite', True):
                sampler.skip(past)
                return True
            if type(sampler) is InfiniteSampler:
                deque(islice(sampler.indices, past), maxlen=0)
                return True
        self.runner.logger.warning(
            f'{type(sampler).__name__} cannot skip samples: the batches of '
            f'{self._iter} iterations are loaded and dropped. '
            'InfiniteSampler and ClassUniformSampler(infinite=True) can.'
        )
        return False


class _Batches(chain):
    """Nothing for each past iteration that was skipped, then batches.

    The parent's ``run`` asks for those of past iterations, too: mmengine with
    ``next``, onedl-mmengine with ``skip_iter``.
    """

    def skip_iter(self, num_iters: int) -> None:
        deque(islice(self, num_iters), maxlen=0)


class _StartedLater:
    """A data loader whose workers start when the first batch is asked for."""

    def __init__(self, dataloader: DataLoader):
        self._dataloader = dataloader

    def __getattr__(self, name: str):
        return getattr(self._dataloader, name)

    def __iter__(self) -> Iterator:
        try:
            yield from self._dataloader
        except (RuntimeError, ConnectionError, EOFError) as error:
            if not self._has_lost_worker(error):
                raise
            raise RuntimeError(
                f'{error}\nA DataLoader worker that dies has mostly run out '
                'of memory: lower train_dataloader.num_workers, now '
                f'{self._dataloader.num_workers}, or enlarge /dev/shm, and '
                'resume.'
            ) from error

    def _has_lost_worker(self, error: Exception) -> bool:
        # An error in a worker that lives is raised here again, as its type.
        if (
            str(error).startswith('Caught ')
            or not self._dataloader.num_workers
        ):
            return False
        # The others come from a worker that dies while it hands over a batch.
        return 'DataLoader worker' in str(error) or not isinstance(
            error, RuntimeError
        )
