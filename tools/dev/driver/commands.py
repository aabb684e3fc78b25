"""Jobs of mmseg's train.py and test.py, and what they have written."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import mmseg
from mmengine.config import Config

from .jobs import Run

ROOT = Path(__file__).resolve().parents[3]
CONFIGS, TOOLS = ROOT / 'configs', ROOT / 'tools'
MMSEG_TOOLS = Path(mmseg.__path__[0]) / '.mim' / 'tools'


def recipe(configs: Iterable[Path], *programs: Path) -> str:
    """Fingerprint of all that decides what is trained and tested."""
    texts = [
        json.dumps(Config.fromfile(path).to_dict(), sort_keys=True)
        for path in sorted(configs)
    ]
    texts += [path.read_text() for path in programs]
    return hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:12]


def iterations(config: Path) -> int:
    """Return how long a config trains."""
    return Config.fromfile(config).train_cfg.max_iters


class Models:
    """Trains and tests the models of a run, each in a folder of its name.

    Jobs ``train <key>`` and ``test <key>`` are added to the run. More than
    one GPU: with mmengine's launcher.
    """

    def __init__(
        self, run: Run, seed: int, gpus: int = 0, options: Sequence[str] = ()
    ) -> None:
        self.run = run
        self.seed = seed
        self.gpus = gpus
        self.options = options
        self.iters: dict[str, int] = {}

    def checkpoint(self, key: str) -> Path:
        """Return the path of a model's last checkpoint."""
        return self.run.root / key / f'iter_{self.iters[key]}.pth'

    def train(
        self,
        key: str,
        config: Path | Callable[[], Path],
        iters: int | None = None,
        start: str | None = None,
        needs: Sequence[str] = (),
        options: Sequence[str] = (),
        needs_val: bool = False,
        **job,
    ) -> None:
        """Add a training, of ``iters`` or as long as its config says.

        A function as ``config`` is called when the training begins; ``start``
        is the key of the model that it starts from. With ``needs_val`` the
        result is the mIoU of the last validation. ``job``: of :class:`Job`.
        """
        self.iters[key] = iters or iterations(config)
        folder, checkpoint = self.run.root / key, self.checkpoint(key)

        def command() -> list:
            own = [f'randomness.seed={self.seed}', *self.options, *options]
            if iters:
                own.append(f'train_cfg.max_iters={iters}')
                own.append(f'train_cfg.val_interval={iters}')
                own.append(f'param_scheduler.0.end={iters}')
            if checkpoint.exists() and needs_val and val_miou(folder) is None:
                # Stopped in the validation at its end, which train.py would
                # not repeat.
                shutil.rmtree(folder)
            arguments = ['--work-dir', folder]
            if start is None or (folder / 'last_checkpoint').exists():
                arguments.append('--resume')
            else:  # With both, mmengine would resume from `load_from`.
                own.append(f'load_from={self.checkpoint(start)}')
            path = config() if callable(config) else config
            return self._command('train.py', path, arguments, own)

        def finish() -> float | None:
            found = val_miou(folder)
            if needs_val and found is None:
                raise SystemExit(f'{folder}: train.py has logged no mIoU')
            return found

        if start is not None:
            needs = [*needs, f'train {start}']
        self.run.add(
            *(f'train {key}', command, checkpoint, needs, finish), **job
        )

    def test(
        self,
        key: str,
        trained: str,
        config: Path | Callable[[], Path],
        arguments: Sequence[object] = (),
        options: Sequence[str] = (),
        folders: Sequence[Path] = (),
        finish: Callable[[dict], dict] = lambda found: found,
    ) -> None:
        """Add a test of a trained model.

        ``config`` is as in :meth:`train`, ``arguments`` are for test.py.
        ``folders`` that it writes to are made empty before; the first one is
        what the job makes. ``finish`` makes the job's result of test.py's.
        """
        work_dir = self.run.root / 'tests' / key

        def command() -> list:
            for folder in (work_dir, *folders):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            path = config() if callable(config) else config
            own = [self.checkpoint(trained), '--work-dir', work_dir]
            return self._command(
                *('test.py', path, [*own, *arguments]),
                [*self.options, *options],
            )

        self.run.add(
            *(f'test {key}', command, [*folders, work_dir][0]),
            needs=[f'train {trained}'],
            finish=lambda: finish(test_result(work_dir)),
        )

    def _command(self, tool, config, arguments, options) -> list:
        command = [sys.executable]
        if self.gpus > 1:
            command += ['-m', 'torch.distributed.run', '--standalone']
            command.append(f'--nproc_per_node={self.gpus}')
            arguments = [*arguments, '--launcher', 'pytorch']
        command += [MMSEG_TOOLS / tool, config, *arguments]
        return [*command, '--cfg-options', *options] if options else command


def val_miou(work_dir: Path) -> float | None:
    """Read the last mIoU that train.py has logged, in percent."""
    values = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        # A kill may leave a part of a line.
        values += re.findall(r'"mIoU": ([\d.]+)', path.read_text())
    return round(float(values[-1]), 2) if values else None


def test_result(work_dir: Path) -> dict:
    """Read what test.py has written."""
    reports = [*work_dir.glob('*/*.json')]
    if len(reports) != 1 or 'mIoU' not in reports[0].read_text():
        raise SystemExit(
            f'{work_dir}: expected one report of test.py with an mIoU, found '
            f'{len(reports)} reports'
        )
    # All processes write this file, with times of their own at its end: the
    # text of one may be followed by the end of a longer one.
    return json.JSONDecoder().raw_decode(reports[0].read_text())[0]
