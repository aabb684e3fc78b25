"""Runs of mmseg's train.py that are interrupted, and go on."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from hmsa_mmseg.utils import check_crc


@pytest.fixture
def train(run_tool, config_file, tmp_path):
    """Return a function that runs train.py and gives its output."""

    def train(name, *args, hooks=(), workers=0, max_epochs=None, **run):
        cfg = Config.fromfile(config_file)
        cfg.runner_type = 'SafeResumeRunner'
        cfg.custom_imports.imports = ['hmsa_mmseg', 'faults']
        for head in cfg.model.decode_head.seg_head:
            head.dropout_ratio = 0.1
        loader = cfg.train_dataloader
        loader.num_workers = workers
        loader.persistent_workers = workers > 0
        loader.sampler = dict(
            type='ClassUniformSampler',
            pct=0.5,
            tile_size=64,
            cache_dir=str(tmp_path / 'cache'),
            infinite=max_epochs is None,
        )
        loader.dataset.pipeline[3] = dict(
            type='CentroidRandomCrop', crop_size=(64, 128)
        )
        # Enough for one centroid of each of the 19 classes.
        many = dict(type='RepeatDataset', times=10, dataset=loader.dataset)
        loader.dataset = dict(type='ClassUniformDataset', dataset=many)
        cfg.train_cfg.type = 'ResumableIterBasedTrainLoop'
        checkpoint = cfg.default_hooks.checkpoint
        checkpoint.interval = 2
        if max_epochs is not None:
            loader.update(batch_size=8, drop_last=True)
            cfg.train_cfg = dict(
                type='EpochBasedTrainLoop',
                max_epochs=max_epochs,
                val_interval=max_epochs,
            )
            cfg.log_processor.by_epoch = True
            checkpoint.update(by_epoch=True, interval=1)
        safe = [dict(type='IterSeedHook'), dict(type='InvalidLossHook')]
        cfg.custom_hooks = [*safe, *hooks]
        backends = [
            dict(type='LocalVisBackend'),
            dict(type='TensorboardVisBackend'),
        ]
        cfg.vis_backends = cfg.visualizer.vis_backends = backends
        config = tmp_path / f'{name}.py'
        folder = str(Path(__file__).parent)
        config.write_text(
            f'import sys\nsys.path.insert(0, {folder!r})\n{cfg.pretty_text}'
        )
        work_dir = ('--work-dir', tmp_path / name)
        return run_tool(
            'train.py', config, *work_dir, *args, cwd=tmp_path, **run
        )

    return train


def local_scalars(work_dir):
    """Read what the local back end has written, one dict for each start."""
    starts = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        starts.append(lines)
    return starts


def event_scalars(work_dir):
    """Read TensorBoard's files: {tag: [(step, value)]} for each start."""
    starts = []
    for folder in sorted(work_dir.glob('*/vis_data')):
        events = EventAccumulator(str(folder)).Reload()
        tags = events.Tags()['scalars']
        starts.append(
            {t: [(e.step, e.value) for e in events.Scalars(t)] for t in tags}
        )
    return starts


@pytest.mark.fault(
    'train.py meets a file limit, then a kill, then is resumed',
    'it ends with the weights of the uninterrupted one, bit for bit',
)
def test_interrupted_run_ends_as_the_uninterrupted_one(
    train, tmp_path, same_end
):
    train('whole', workers=0)
    folder = tmp_path / 'cut'

    fault = dict(type='FullDiskFault', at=4)
    output = train('cut', hooks=[fault], workers=2, fails=True)
    full = f"OSError: [Errno 27] File too large: '{folder / 'iter_4.pth'}'"
    assert full in output
    assert [path.name for path in folder.glob('*.pth')] == ['iter_2.pth']
    assert not [*folder.glob('.*.part')]
    check_crc(folder / 'iter_2.pth')
    pointer = (folder / 'last_checkpoint').read_text()
    assert Path(pointer).name == 'iter_2.pth'

    kill = dict(type='KillFault', at=4, by=7, seed=0)
    train('cut', '--resume', hooks=[kill], workers=0, fails=True)
    done = sorted(path.name for path in folder.glob('*.pth'))
    assert 'iter_8.pth' not in done

    output = train('cut', '--resume', workers=3)
    resumed_at = int(done[-1][len('iter_') : -len('.pth')])
    assert f'resumed epoch: 0, iter: {resumed_at}' in output
    assert same_end(folder / 'iter_8.pth', tmp_path / 'whole' / 'iter_8.pth')
    check_curves(tmp_path / 'whole', folder, resumed_at)


CURVES = ('lr', 'loss', 'decode.loss_ce', 'aux.loss_ce', 'scale_0.5.loss_ce')


def check_curves(whole, cut, resumed_at):
    """The curves of all starts together are those of the whole run."""
    (lines,) = local_scalars(whole)
    starts = local_scalars(cut)
    events = event_scalars(cut)
    assert len(starts) == len(events) == 3
    for key in CURVES:
        expected = [(x['step'], x[key]) for x in lines if key in x]
        assert [step for step, _ in expected] == [*range(1, 9)]
        for start, event, saved in zip(starts, events, (2, resumed_at, 8)):
            found = [(x['step'], x[key]) for x in start if key in x]
            steps = [step for step, _ in found]
            # Each goes on behind its checkpoint, in the same curve.
            assert steps == [*range(steps[0], steps[-1] + 1)]
            assert found == [x for x in expected if x[0] in steps]
            # A killed process may not have written those after the last
            # checkpoint.
            pairs = [(step, pytest.approx(v, rel=1e-5)) for step, v in found]
            assert event[key] == pairs[: len(event[key])]
            assert len(event[key]) >= saved - steps[0]
            if start is starts[-1]:
                assert steps == [*range(resumed_at + 1, 9)]
                assert len(event[key]) == len(steps)
    scores = {x['step']: x['mIoU'] for x in lines if 'mIoU' in x}
    assert [*scores] == [4, 8]
    assert starts[-1][-1]['mIoU'] == scores[8]
    (last,) = events[-1]['mIoU'][-1:]
    assert last == (8, pytest.approx(scores[8], rel=1e-5))


@pytest.mark.fault(
    'train.py by epoch is killed and resumed, with other workers',
    'it ends with the weights of the uninterrupted one, bit for bit',
)
def test_killed_run_by_epoch(train, tmp_path, same_end):
    train('whole', max_epochs=3, workers=2)
    # Five iterations in an epoch: killed within the second.
    kill = dict(type='KillFault', at=7, by=9, seed=1)
    train('cut', max_epochs=3, hooks=[kill], workers=0, fails=True)
    assert not (tmp_path / 'cut' / 'epoch_2.pth').exists()
    output = train('cut', '--resume', max_epochs=3, workers=2)
    assert 'resumed epoch: 1, iter: 5' in output
    assert same_end(
        tmp_path / 'cut' / 'epoch_3.pth', tmp_path / 'whole' / 'epoch_3.pth'
    )


def test_loss_of_one_process_stops_both(train, tmp_path, load, equal):
    hooks = [
        dict(type='NaNFault', at=3, rank=1),
        dict(type='KeepWeights'),
    ]
    output = train('nan', hooks=hooks, two_ranks=True, fails=True)
    assert 'FloatingPointError: loss not finite at iteration 3 on rank' in (
        output
    )
    assert 'iteration 3 of another process' in output
    folder = tmp_path / 'nan'

    def parameters(state):
        return {
            key: value
            for key, value in state.items()
            if 'running' not in key and 'num_batches' not in key
        }

    before = parameters(load(folder / 'iter_2.pth')['state_dict'])
    for rank in (0, 1):
        assert equal(parameters(load(folder / f'rank{rank}.pt')), before)
    (path,) = folder.glob('invalid_loss_*')
    assert path.name == 'invalid_loss_rank1_iter3.pth'
    dump = load(path)
    for sample in dump['batch']['data_samples']:
        assert sample['img_path'] in output
        assert sample['gt_sem_seg']['data'].shape == (1, 64, 128)
    assert dump['batch']['inputs'][0].shape == (3, 64, 128)
    assert dump['losses'].keys() >= {'decode.loss_ce', 'aux.loss_ce'}
    assert dump['lr']['lr'][0] == pytest.approx(0.3, rel=0.5)
