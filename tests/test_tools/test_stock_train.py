"""mmseg's train.py, as it is, on models of this package."""

import pickle
import shutil

import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from hmsa_mmseg import compat


def test_logs_every_loss_and_learns(trained):
    assert [line['step'] for line in trained.train] == [*range(1, 9)]
    for line in trained.train:
        assert line.keys() >= {
            'aux.loss_ce',
            'aux.acc_seg',
            'decode.loss_ce',
            'decode.acc_seg',
            'scale_0.5.loss_ce',
            'scale_1.loss_ce',
        }
        total = sum(line[key] for key in line if '.loss' in key)
        assert line['loss'] == pytest.approx(total, rel=1e-5)
    assert [line['step'] for line in trained.val] == [4, 8]
    # Far above the share of a single class among the 19.
    assert trained.val[-1]['mIoU'] > 100 / 19


def test_checkpoint_and_config_load(trained, config_file, load):
    checkpoint = load(trained.checkpoint)
    assert checkpoint['meta']['iter'] == 8
    assert len(checkpoint['meta']['dataset_meta']['classes']) == 19
    dumped = Config.fromfile(trained.work_dir / 'tiny.py')
    assert dumped.custom_imports.imports == ['hmsa_mmseg']
    assert dumped.model == Config.fromfile(config_file).model
    model = MODELS.build(dumped.model)
    model.load_state_dict(checkpoint['state_dict'], strict=True)


def test_checkpoint_of_mmengines_hook(
    run_tool, config_file, tmp_path, load, load_tool
):
    hook = [
        'default_hooks.checkpoint.type=CheckpointHook',
        'default_hooks.checkpoint.save_best=mIoU',
        'train_cfg.max_iters=4',
    ]
    work_dir = ('--work-dir', tmp_path)
    run_tool('train.py', config_file, *work_dir, options=hook, cwd=tmp_path)
    path = tmp_path / 'iter_4.pth'
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        load(path)
    said = run_tool('test.py', config_file, path, *work_dir, cwd=tmp_path)
    assert 'mIoU:' in said
    publish = load_tool('misc/publish_model.py').main
    assert publish([str(path), str(tmp_path / 'plain.pth'), '--all']) == 0
    (plain,) = tmp_path.glob('plain-*.pth')
    hub = load(plain)['message_hub']['runtime_info']
    assert type(hub['best_score']) is float


@pytest.mark.skipif(
    compat.is_forked(),
    reason="onedl-mmengine's loop does not load past samples when it resumes, "
    'so that the random numbers of their augmentations are drawn again',
)
def test_resume_ends_where_the_uninterrupted_run_does(
    run_tool, config_file, trained, tmp_path, read_run, load, same_end
):
    shutil.copy(trained.work_dir / 'iter_4.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_4.pth'))
    run_tool(
        *('train.py', config_file, '--work-dir', tmp_path, '--resume'),
        cwd=tmp_path,
    )
    resumed = read_run(tmp_path)
    assert 'resumed epoch: 0, iter: 4' in resumed.log
    assert [line['step'] for line in resumed.train] == [5, 6, 7, 8]
    for line, expected in zip(resumed.train, trained.train[4:]):
        for key in ('lr', 'loss'):
            assert line[key] == expected[key]
    (val,) = resumed.val
    assert val['mIoU'] == trained.val[-1]['mIoU']
    assert same_end(resumed.checkpoint, trained.checkpoint)
    for run in (resumed, trained):
        assert load(run.checkpoint)['meta']['iter'] == 8


def test_two_processes_train_as_one_does(
    run_tool, config_file, tmp_path, read_run, load
):
    """Without randomness, and statistics over the batch.

    Then two processes with one image each compute what one computes with
    both.
    """
    cfg = Config.fromfile(config_file)
    for part in (cfg.model.backbone, *cfg.model.decode_head.seg_head):
        part.norm_cfg = dict(type='GN', num_groups=2)
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    cfg.dump(tmp_path / 'repeatable.py')
    runs = {}
    for ranks in (1, 2):
        work_dir = tmp_path / f'ranks{ranks}'
        run_tool(
            *('train.py', 'repeatable.py', '--work-dir', work_dir),
            cwd=tmp_path,
            options=[f'train_dataloader.batch_size={2 // ranks}'],
            two_ranks=ranks == 2,
        )
        runs[ranks] = read_run(work_dir)
    assert 'Distributed training: True' in runs[2].log
    one, two = (load(run.checkpoint)['state_dict'] for run in runs.values())
    half = load(runs[1].work_dir / 'iter_4.pth')['state_dict']
    assert one.keys() == two.keys()
    moved = max((one[key] - half[key]).abs().max() for key in one)
    apart = max((one[key] - two[key]).abs().max() for key in one)
    assert apart < 1e-3 * moved
    # Each rank validates its share: the second rank's weights count too.
    for line, other in zip(runs[1].val, runs[2].val):
        assert line['mIoU'] == pytest.approx(other['mIoU'], abs=0.05)


def test_attention_for_a_model_of_mmseg(
    run_tool, config_file, trained, tmp_path, load
):
    source = load(trained.checkpoint)['state_dict']
    # The keys of mmseg's CascadeEncoderDecoder.
    stock = {
        key.replace('decode_head.seg_head.', 'decode_head.'): value
        for key, value in source.items()
        if not key.startswith('decode_head.scale_attn.')
    }
    torch.save(dict(state_dict=stock), tmp_path / 'stock.pth')
    work_dir = tmp_path / 'work_dir'
    output = run_tool(
        'train.py',
        config_file,
        *('--work-dir', work_dir),
        cwd=tmp_path,
        two_ranks=True,
        options=[
            f'load_from={tmp_path / "stock.pth"}',
            'model.train_cfg.attention_only=True',
            'train_cfg.max_iters=4',
        ],
    )
    assert 'decode_head.* were read as decode_head.seg_head.*' in output
    assert 'unexpected key' not in output
    checkpoint = load(work_dir / 'iter_4.pth')
    found = checkpoint['state_dict']
    assert found.keys() == source.keys()
    for key, value in stock.items():
        own = key.replace('decode_head.', 'decode_head.seg_head.')
        assert torch.equal(found[own], value), key
    # Of the frozen parameters the optimizer keeps nothing.
    momenta = checkpoint['optimizer']['state']
    size = sum(state['momentum_buffer'].numel() for state in momenta.values())
    assert size == sum(
        value.numel()
        for key, value in found.items()
        if key.startswith('decode_head.scale_attn.')
        and not key.endswith(('running_mean', 'running_var', 'tracked'))
    )
