"""Soak the package: a long training under faults, and memory over thousands.

    python tools/dev/soak.py train    killed, out of space, out of workers, and
                                      resumed: it must end in the bytes of one
                                      that nothing has disturbed
    python tools/dev/soak.py memory   memory and open files of `hmsa train`,
                                      `test`, `infer` and `label`

Both without a name. What is done is kept in --work-dir and not done again:
stopped or killed, the same command goes on. The exit status is 1 if anything
was not as it must be. `--out` gets soak.log, train.png and memory.png.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from glob import glob
from pathlib import Path

import numpy as np
import scenes
import torch
from matplotlib import pyplot

from hmsa_mmseg.utils import check_crc, write_json

BASE = Path(__file__).parents[2] / 'tests/test_tools/tiny_cityscapes.py'
INTERVAL = 50  # iterations between two checkpoints
# What happens, and how often in 3000 iterations; after what, and within how
# many seconds; exit status and what is printed. Those of -9 are SIGKILLs.
FAULTS = {
    'start-up': (12, 'pid', 7, -9, ''),
    'iterations': (22, 'train', 3.5, -9, ''),
    'saving': (10, 'part', 0.03, -9, ''),
    'validation': (6, 'val', 0.1, -9, ''),
    'full disk': (8, 'train', 3.5, 1, 'o space left'),
    'dead worker': (8, 'train', 3.5, 1, 'DataLoader worker'),
    'SIGTERM': (6, 'train', 3.5, 0, 'Stopped by SIGTERM'),
}
# A file system of 64 MB at $0, for the disk that gets full.
MOUNT = """
test -e $0.img || { truncate -s 64M $0.img; mkfs.ext4 -qFm0 $0.img; }
mount -o loop $0.img $0
"""
# Bytes of memory that an image, or an iteration of two, may add: a third of
# the least that a leak would keep, the image of 64x128 as it is read.
BOUND = 8192
LINE = re.compile(r'Iter\((train|val|test)\) \[ *(\d+)/|(Saving) |(mIoU):')
CONFIG = """
_base_ = {base!r}
runner_type = 'SafeResumeRunner'
data = dict(data_root={data!r})
images = dict(_base_.train_dataloader.dataset, **data)
images['pipeline'] = [*_base_.train_pipeline]
images['pipeline'][3] = dict(type='CentroidRandomCrop', crop_size=(64, 128))
images = dict(type='RepeatDataset', times=8, dataset=images)
sampler = dict(type='ClassUniformSampler', pct=0.5, tile_size=32)
sampler.update(_delete_=True, infinite=True, cache_dir='centroids')
images = dict(_delete_=True, type='ClassUniformDataset', dataset=images)
train_dataloader = dict(num_workers=2, dataset=images, sampler=sampler)
val_dataloader = dict(num_workers=1, dataset=data)
many = dict(_base_.val_dataloader.dataset, **data)
many = dict(_delete_=True, type='RepeatDataset', times={times}, dataset=many)
test_dataloader = dict(num_workers=2, dataset=many)
heads = [dict(x, dropout_ratio=0.1) for x in _base_.model.decode_head.seg_head]
model = dict(decode_head=dict(seg_head=heads))
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = [dict(type='PolyLR', end={iters}, by_epoch=False)]
train_cfg = dict(type='ResumableIterBasedTrainLoop', max_iters={iters})
train_cfg['val_interval'] = 2 * {interval}
default_hooks = dict(checkpoint=dict(interval={interval}, max_keep_ckpts=1))
hooks = 'IterSeedHook InvalidLossHook SignalCheckpointHook EMAHook'.split()
custom_hooks = [dict(type=hook) for hook in hooks]
"""


class Program(subprocess.Popen):
    """A command of ``hmsa`` that runs in a folder."""

    def __init__(self, folder, *args):
        folder.mkdir(parents=True, exist_ok=True)
        self.console = folder / 'console.txt'
        args = [sys.executable, '-m', 'hmsa_mmseg', *map(str, args)]
        env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
        options = dict(cwd=folder, env=env, start_new_session=True)
        with self.console.open('wb') as file:
            super().__init__(args, stdout=file, stderr=file, **options)

    def last(self, kind):
        """Number of the last iteration of ``train``, ``val`` or ``test``."""
        if kind == 'pid':
            return self.pid
        with self.console.open('rb') as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
            found = LINE.findall(file.read().decode(errors='replace'))
        return next((int(x[1]) for x in found[::-1] if x[0] == kind), 0)

    def wait_for(self, happens):
        """Wait until something is so, or the program has ended."""
        while self.poll() is None and not happens():
            time.sleep(0.001)


def leaves(value, where=''):
    """All that a nested state holds, by its place in it."""
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from leaves(item, f'{where}.{key}')
    elif isinstance(value, torch.Tensor):
        yield where, (value.dtype, value.shape, value.numpy().tobytes())
    else:
        yield where, (type(value), repr(value))


def differences(first, second):
    """Name what is not the same in two nested states, to the last bit."""
    return sorted({k for k, _ in {*leaves(first)} ^ {*leaves(second)}})


def phase_of(said, has_part):
    """What a training did last, by what it printed and left."""
    found = [x[0] or x[2] or x[3] for x in LINE.findall(said)] or ['']
    if has_part or found[-1] == 'Saving':
        return 'saving'
    return {'': 'start-up', 'val': 'validation'}.get(found[-1], 'iterations')


def judge(rows, total):
    """Fit bytes over steps, and compare open files early and late.

    Rows are steps done, bytes and open files; the first fifth is left out.
    Workers of a validation, and files that are written, are there for a
    moment: of each twentieth of the rows, the least counts.
    """
    rows = np.array([x for x in rows if total / 5 <= x[0] < total], float)
    steps, size, files = np.array(
        [x.min(0) for x in np.array_split(rows, 20) if len(x)]
    ).T
    slope = np.polyfit(steps, size, 1)[0]
    files = int(files[:5].min()), int(files[-5:].min())
    return slope, files, bool(slope <= BOUND) and files[1] <= files[0]


def children(pid):
    """Processes that a process has started."""
    found = map(Path, glob(f'/proc/{pid}/task/*/children'))
    return [int(x) for path in found for x in path.read_text().split()]


def usage(pid):
    """Resident bytes and open files of a process and all below it."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    own = pages * resource.getpagesize(), len(os.listdir(f'/proc/{pid}/fd'))
    return tuple(map(sum, zip(own, *map(usage, children(pid)))))


class Soak:
    """Both parts, and what is noted of them in their folder."""

    def __init__(self, args):
        self.args, self.work = args, args.work_dir.absolute()
        self.config, self.disk = self.work / 'config.py', self.work / 'disk'
        self.run, self.lives, self.watched = self.disk / 'run', [], {}
        self.disk.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            text = (self.work / 'state.json').read_text()
            self.lives, self.watched = json.loads(text)
        data, splits = self.work / 'data', dict(train=8, val=8)
        scenes.generate(data, args.seed, splits, (64, 128))
        values = dict(iters=args.iters, interval=INTERVAL, base=str(BASE))
        values.update(data=str(data), times=args.images // 8)
        self.config.write_text(CONFIG.format(**values))

    def say(self, text, is_bad=False):
        """Print, keep in soak.log, and note all that is known."""
        text = f'{time.strftime("%F %T")} {"WRONG: " * is_bad}{text}\n'
        print(text, end='', flush=True)
        with (self.work / 'soak.log').open('a') as file:
            file.write(text)
        content = self.lives, self.watched
        write_json(self.work / 'state.json', content, indent=None)

    def expect(self, program, status=0, word=''):
        """Wait for the end a program should have; give what it printed."""
        found = program.wait(1800)
        said = program.console.read_text(errors='replace')
        if found != status or not re.search(word, said):
            self.say(f'exit status {found}: {said[-2000:]}', is_bad=True)
        return said

    def train(self):
        """Train undisturbed, then disturbed, and compare the ends."""
        iters, seed, done = self.args.iters, self.args.seed, len(self.lives)
        command = 'train', self.config, '--resume', '--work-dir'
        if not done:
            self.expect(Program(self.work / 'whole', *command, 'run'))
            self.say(f'undisturbed: {iters} iterations, seed {seed}')
        if os.geteuid() == 0 and not self.disk.is_mount():
            subprocess.run(['sh', '-ec', MOUNT, self.disk], check=True)
        plan = [kind for kind, x in FAULTS.items() for _ in range(x[0])]
        random.Random(seed).shuffle(plan)
        if not self.disk.is_mount():
            plan = [kind for kind in plan if kind != 'full disk']
        plan = [*plan[: len(plan) * iters // 3000], 'end']
        for number, kind in [*enumerate(plan, 1)][done:]:
            self.live(number, kind, random.Random(f'{seed} {number}'), command)
        states, keys = [], ('state_dict', 'ema_state_dict', 'optimizer')
        for run in (self.work / 'whole/run', self.run):
            state = torch.load(run / f'iter_{iters}.pth', weights_only=True)
            states.append([state[x] for x in (*keys, 'param_schedulers')])
        if self.disk.is_mount():
            subprocess.run(['umount', '-l', self.disk], check=True)
        wrong, number = differences(*states), len([*leaves(states[0])])
        self.say(str(dict(Counter(x[0] for x in self.lives))))
        text = f'{number} entries of both checkpoints, {len(wrong)} differ'
        self.say(f'{text} {wrong[:3]}', bool(wrong))

    def live(self, number, kind, rng, command):
        """Start and disturb it, wait for its end, look at what is left."""
        before, began, moment = self.newest(), time.time(), rng.random()
        event, seconds, status, word = FAULTS.get(kind, ('end', 0, 0, ''))[-4:]
        workers = f'train_dataloader.num_workers={rng.randint(1, 2)}'
        command = (*command, self.run, '--cfg-options', workers)
        old, ballast = self.parts(), self.disk / 'ballast'
        program = Program(self.work / 'disturbed', *command)
        if event == 'part':
            program.wait_for(lambda: self.parts() - old)
        else:
            program.wait_for(lambda: program.last(event))
        until = time.time() + moment * seconds
        program.wait_for(lambda: time.time() > until)
        with suppress(ProcessLookupError, IndexError):  # It has ended.
            if status == -9:  # Alone, or with its workers.
                rng.choice((os.kill, os.killpg))(program.pid, signal.SIGKILL)
            elif kind == 'SIGTERM':
                os.kill(program.pid, signal.SIGTERM)
            elif kind == 'dead worker':
                os.kill(rng.choice(children(program.pid)), signal.SIGKILL)
        if kind == 'full disk':  # Less is left than a checkpoint takes.
            size = shutil.disk_usage(self.disk).free - rng.randrange(300_000)
            with ballast.open('wb') as file:
                os.posix_fallocate(file.fileno(), 0, size)
        said = self.expect(program, status, word)
        phase = phase_of(said, self.parts() - old)
        last, newest = program.last('train'), self.newest()
        if kind == 'full disk':
            self.expect(Program(program.console.parent, *command), 1)
        ballast.unlink(missing_ok=True)
        # A checkpoint is saved before the next iteration is printed.
        least = last if kind == 'SIGTERM' else last - 1 - (last - 1) % INTERVAL
        resumed = re.search(r'resumed epoch: \d+, iter: (\d+)', said)
        wrong = last > 0 and before != int(resumed[1] if resumed else 0)
        wrong |= not newest == self.newest() >= max(before, least)
        wrong |= kind == 'end' and bool(self.parts())
        what = f'SIGKILL, {phase}' if status == -9 else kind
        seconds = time.time() - began
        self.lives.append((what, before, max(last, before), seconds))
        saved = f'at {last:4}, saved {before:4} -> {newest:4}'
        self.say(f'{number:2} {what:20} {saved}', wrong)

    def newest(self):
        """Number of the newest checkpoint; all that there are are whole."""
        paths = [*self.run.glob('iter_*.pth')]
        for path in paths:
            check_crc(path)
        return max((int(path.stem[5:]) for path in paths), default=0)

    def parts(self):
        """Checkpoints that are being written, or were."""
        return {*glob(f'{self.run}/.*.part')}

    def memory(self):
        """Watch four programs; the later ones take the first one's model."""
        images, iters = self.args.images, self.args.images * 2 // 5
        inputs, short = self.work / 'images', f'train_cfg.max_iters={iters}'
        inputs.mkdir(exist_ok=True)
        found = sorted(self.work.glob('data/leftImg8bit/val/*/*.png'))
        for number in range(images):
            with suppress(FileExistsError):
                os.link(found[number % 8], inputs / f'{number:05}.png')
        model, run = f'../train/run/iter_{iters}.pth', ('--work-dir', 'run')
        self.watch('train', iters, *run, '--cfg-options', short)
        self.watch('test', images, model, *run)
        self.watch('infer', images, model, inputs, '--out', 'out')
        self.watch('label', images, model, inputs, 'out')

    def watch(self, name, total, *arguments):
        """Run a program, and sample what it uses."""
        if name in self.watched:
            return
        folder, rows, began = self.work / name, [], time.time()
        shutil.rmtree(folder, ignore_errors=True)
        makes = dict(infer='finished/*.json', label='*_prob.png').get(name)
        program = Program(folder, name, self.config, *arguments)
        while program.poll() is None:
            time.sleep(0.25)
            made = len(glob(f'{folder}/out/{makes}'))
            with suppress(OSError, IndexError):  # One of them has ended.
                steps = made if makes else program.last(name)
                rows.append((steps, *usage(program.pid)))
        self.expect(program)
        slope, files, ok = judge(rows, total)
        self.watched[name] = rows, slope
        text = f'{name}: {total} steps in {time.time() - began:.0f} s, memory'
        text += f' {slope:+.0f} bytes a step, open files'
        self.say(f'{text} {files[0]}, then {files[1]}', not ok)

    def draw(self, out):
        """Write the log and the plots."""
        out.mkdir(parents=True, exist_ok=True)
        with suppress(shutil.SameFileError):
            shutil.copy(self.work / 'soak.log', out)
        figure, axes = pyplot.subplots(2, 4, figsize=(13, 5), sharex='col')
        for (name, (rows, slope)), pair in zip(self.watched.items(), axes.T):
            steps, size, files = np.array(rows).T
            pair[0].plot(steps, size / 1e6, '.', ms=2)
            pair[1].plot(steps, files, '.', ms=2, color='C1')
            pair[0].set_title(f'{name}, {slope:+.0f} bytes a step')
        pyplot.setp(axes, ylim=(0, None))
        axes[0, 0].set_ylabel('resident, MB')
        axes[1, 0].set_ylabel('open files')
        figure.savefig(out / 'memory.png', dpi=80, bbox_inches='tight')
        figure, axis = pyplot.subplots(figsize=(13, 5))
        minutes, ends = 0, {}
        for what, start, end, seconds in self.lives:
            axis.plot(
                *zip((minutes, start), (minutes + seconds / 60, end)), '0.7'
            )
            minutes += seconds / 60
            ends.setdefault(what, []).append((minutes, end))
        for what, points in sorted(ends.items()):
            axis.plot(*zip(*points), 'o', ms=5, label=f'{what}: {len(points)}')
        axis.set(xlabel='minutes', ylabel='iterations')
        axis.legend()
        figure.savefig(out / 'train.png', dpi=80, bbox_inches='tight')


def main(argv=None):
    """Read the command line and do what is not done."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument('parts', nargs='*', default=('train', 'memory'))
    parser.add_argument('--work-dir', type=Path, default='soak_out')
    parser.add_argument('--out', type=Path, help='default: the work dir')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--iters', type=int, default=3000)
    parser.add_argument('--images', type=int, default=5000)
    args = parser.parse_args(argv)
    soak = Soak(args)
    for part in args.parts:
        getattr(soak, part)()
    soak.draw(args.out or soak.work)
    sys.exit('WRONG' in (soak.work / 'soak.log').read_text())


if __name__ == '__main__':
    main()
