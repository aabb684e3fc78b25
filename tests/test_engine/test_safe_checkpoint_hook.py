import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from hmsa_mmseg.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def test_is_registered():
    assert HOOKS.get('SafeCheckpointHook') is SafeCheckpointHook


def test_misspelt_keys_are_refused(make_runner):
    with pytest.raises(ValueError, match=r"\['intervall'\]; .* interval, "):
        make_runner(checkpoint=dict(intervall=2))


def test_files_load_with_weights_only(run, tmp_path, load):
    runner = run('safe')
    names = sorted(path.name for path in (tmp_path / 'safe').glob('*.pth'))
    assert names == ['best_score_iter_2.pth', 'iter_2.pth', 'iter_4.pth']
    for name in names:
        checkpoint = load(tmp_path / 'safe' / name)
        assert checkpoint['message_hub']['log_scalars'] == {}
    weight = load(tmp_path / 'safe' / 'iter_4.pth')['state_dict']
    assert torch.equal(weight['linear.weight'], runner.model.linear.weight)


def test_the_running_training_is_left_alone(run, tmp_path, load):
    runner = run('safe')
    # The saved file has lost its log history, the run has not.
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 4
    assert isinstance(runner.message_hub.get_info('best_score'), np.float64)
    momentum = runner.optim_wrapper.optimizer.state_dict()['state']
    saved = load(tmp_path / 'safe' / 'iter_4.pth')['optimizer']['state']
    assert saved.keys() == momentum.keys() == {0, 1, 2, 3}
    assert momentum[0]['momentum_buffer'].abs().sum() > 0
    for key, state in momentum.items():
        assert torch.equal(
            state['momentum_buffer'], saved[key]['momentum_buffer']
        )


def test_resume_restores_what_was_saved(run, tmp_path):
    whole = run('whole')
    first = run('first', max_iters=2)
    checkpoint = tmp_path / 'first' / 'iter_2.pth'
    resumed = run('resumed', load_from=str(checkpoint), resume=True)
    assert resumed.iter == 4
    # The score of iteration 2 is still the best: no second file of the best.
    assert not list((tmp_path / 'resumed').glob('best*'))
    best_score = resumed.message_hub.get_info('best_score')
    assert type(best_score) is float
    assert best_score == 61.25
    best_file = resumed.message_hub.get_info('best_ckpt')
    assert best_file == first.message_hub.get_info('best_ckpt')
    # With momentum and a falling rate, only their states lead here.
    for found, expected in zip(
        resumed.model.parameters(), whole.model.parameters()
    ):
        assert torch.equal(found, expected)
    assert resumed.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()


def test_runtime_info_of_numpy_values_becomes_plain():
    message_hub = dict(
        log_scalars=OrderedDict(loss=object()),
        runtime_info=OrderedDict(
            best_score=np.float32(0.5),
            nested=dict(ids=[np.int64(3), (np.bool_(True),)]),
            palette=np.array([[1, 2], [3, 4]], dtype=np.uint8),
        ),
        resumed_keys=OrderedDict(loss=True, best_score=True),
    )
    weights = OrderedDict(weight=torch.ones(1))
    checkpoint = dict(message_hub=message_hub, state_dict=weights)
    SafeCheckpointHook().before_save_checkpoint(None, checkpoint)
    assert checkpoint['message_hub'] == dict(
        log_scalars={},
        runtime_info=dict(
            best_score=0.5,
            nested=dict(ids=[3, (True,)]),
            palette=[[1, 2], [3, 4]],
        ),
        resumed_keys=dict(best_score=True),
    )
    assert checkpoint['state_dict'] is weights


def test_other_back_ends_are_left_to_mmengine(run, tmp_path, load):
    put = []

    class Remote(LocalBackend):
        def put(self, obj, filepath):
            put.append(os.path.basename(filepath))
            super().put(obj, filepath)

    register_backend('remote_of_tests', Remote, force=True)
    run(checkpoint=dict(backend_args=dict(backend='remote_of_tests')))
    # Saved again to know the best one.
    assert put == [
        'iter_2.pth',
        'best_score_iter_2.pth',
        'iter_2.pth',
        'iter_4.pth',
    ]
    assert load(tmp_path / 'run' / 'iter_4.pth')['meta']['iter'] == 4


def test_other_folder_for_checkpoints(run, tmp_path):
    run(checkpoint=dict(out_dir=str(tmp_path / 'large_disk')))
    folder = tmp_path / 'large_disk' / 'run'
    assert names(folder) == [
        'best_score_iter_2.pth',
        'iter_2.pth',
        'iter_4.pth',
    ]
    pointer = (tmp_path / 'run' / 'last_checkpoint').read_text()
    assert pointer == str(folder / 'iter_4.pth')


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
@pytest.mark.parametrize('name', ['linear.weight', 'norm.running_var'])
def test_weights_that_are_not_finite_are_not_saved(run, tmp_path, name, value):
    def poison(runner):
        # After the step of this iteration, before the hook saves.
        runner.model.state_dict()[name].flatten()[0] = value

    class Poison(Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            if runner.iter + 1 == 4:
                poison(runner)

    with pytest.raises(FloatingPointError, match=f'state_dict .* {name}'):
        run(custom_hooks=[Poison()], checkpoint=dict(max_keep_ckpts=1))
    folder = tmp_path / 'run'
    assert names(folder) == ['best_score_iter_2.pth', 'iter_2.pth']
    pointer = (folder / 'last_checkpoint').read_text()
    assert pointer == str(folder / 'iter_2.pth')


def test_infinite_masks_are_saved(run, tmp_path, load):
    run()
    state = load(tmp_path / 'run' / 'iter_4.pth')['state_dict']
    assert state['mask'].tolist() == [0, -torch.inf]


def test_by_epoch(run, tmp_path, load):
    run(max_epochs=4, checkpoint=dict(max_keep_ckpts=1))
    folder = tmp_path / 'run'
    assert names(folder) == ['best_score_epoch_2.pth', 'epoch_4.pth']
    assert load(folder / 'epoch_4.pth')['meta']['epoch'] == 4


def test_publishing(run, tmp_path, load):
    run(checkpoint=dict(published_keys=['state_dict'], save_best=None))
    (path,) = (tmp_path / 'run').glob('iter_4-????????.pth')
    assert load(path).keys() == {'state_dict'}


@pytest.mark.needs_torch('scaler_on_cpu')
def test_states_of_scaler_average_and_schedule_return(
    run, make_runner, tmp_path, monkeypatch, load
):
    # No GPU is needed to keep a scaler's numbers.
    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
    monkeypatch.setattr(
        f'{module}.GradScaler',
        lambda **kwargs: torch.amp.GradScaler('cpu', **kwargs),
    )
    options = dict(
        optim_wrapper=dict(
            type='AmpOptimWrapper',
            dtype='bfloat16',
            loss_scale=dict(init_scale=64.0, growth_interval=2),
            optimizer=dict(type='Adam', lr=0.1),
        ),
        custom_hooks=[dict(type='EMAHook')],
    )
    whole = run('whole', **options)
    resumed = make_runner(
        'resumed',
        load_from=str(tmp_path / 'whole' / 'iter_2.pth'),
        resume=True,
        max_iters=2,
        **options,
    )
    resumed.train()
    saved = load(tmp_path / 'whole' / 'iter_2.pth')
    state = resumed.optim_wrapper.state_dict()
    scaler = state['loss_scaler']
    assert scaler == saved['optimizer']['loss_scaler']
    assert scaler['scale'] == 128.0  # grown once in two iterations
    torch.testing.assert_close(state, saved['optimizer'], rtol=0, atol=0)
    assert (
        resumed.param_schedulers[0].state_dict()
        == saved['param_schedulers'][0]
    )
    (ema,) = (h for h in resumed.hooks if type(h).__name__ == 'EMAHook')
    # In the file, the average stands in the place of the weights.
    average = ema.ema_model.module.state_dict()
    torch.testing.assert_close(average, dict(saved['state_dict']))
    assert int(ema.ema_model.steps) == int(saved['ema_state_dict']['steps'])
    assert not torch.equal(
        average['linear.weight'], resumed.model.linear.weight
    )

    end = run(
        'end',
        load_from=str(tmp_path / 'whole' / 'iter_2.pth'),
        resume=True,
        **options,
    )
    for found, expected in zip(
        end.model.state_dict().values(), whole.model.state_dict().values()
    ):
        assert torch.equal(found, expected)


def test_another_order_of_the_images_is_told(run, tmp_path, messages, load):
    run('first')
    checkpoint = str(tmp_path / 'first' / 'iter_2.pth')
    saved = load(checkpoint)['meta']['data_order']
    assert saved == dict(world_size=1, batch_size=2, num_images=8)
    run('same', load_from=checkpoint, resume=True)
    told = 'does not see the images'
    assert not any(told in message for message in messages())

    changed = load(checkpoint)
    changed['meta']['data_order'].update(batch_size=4, world_size=3)
    torch.save(changed, tmp_path / 'changed.pth')
    run('other', load_from=str(tmp_path / 'changed.pth'), resume=True)
    found = [message for message in messages() if told in message]
    assert len(found) == 2
    assert any('had batch_size=4, this one has 2' in m for m in found)
    assert any('had world_size=3, this one has 1' in m for m in found)
