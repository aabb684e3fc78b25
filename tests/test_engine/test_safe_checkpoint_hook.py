"""What `SafeCheckpointHook` saves; for faults see test_safe_writing.py."""

import os

import numpy as np
import pytest
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def test_files_load_with_weights_only(run, tmp_path, load):
    out_dir = tmp_path / 'large_disk'
    runner = run(checkpoint=dict(out_dir=str(out_dir)))
    folder = out_dir / 'run'
    assert names(folder) == [
        *('best_score_iter_2.pth', 'iter_2.pth', 'iter_4.pth')
    ]
    pointer = (tmp_path / 'run' / 'last_checkpoint').read_text()
    assert pointer == str(folder / 'iter_4.pth')
    for name in names(folder):
        saved = load(folder / name)
        assert saved['message_hub']['log_scalars'] == {}
    assert saved['state_dict']['mask'].tolist() == [0, -torch.inf]
    assert type(saved['message_hub']['runtime_info']['best_score']) is float
    weight = saved['state_dict']['linear.weight']
    assert torch.equal(weight, runner.model.linear.weight)
    # The saved file has lost its log history, the run has not.
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 4
    assert isinstance(runner.message_hub.get_info('best_score'), np.float64)
    momentum = runner.optim_wrapper.optimizer.state_dict()['state']
    torch.testing.assert_close(saved['optimizer']['state'], momentum)


def test_options_of_mmengines_hook(run, make_runner, tmp_path, load):
    run(max_epochs=4, checkpoint=dict(max_keep_ckpts=1))
    folder = tmp_path / 'run'
    assert names(folder) == ['best_score_epoch_2.pth', 'epoch_4.pth']
    assert load(folder / 'epoch_4.pth')['meta']['epoch'] == 4
    options = dict(published_keys=['state_dict'], save_best=None)
    run('published', checkpoint=options)
    (path,) = (tmp_path / 'published').glob('iter_4-????????.pth')
    assert load(path).keys() == {'state_dict'}
    with pytest.raises(TypeError, match=r"'intervall' \(did you mean inter"):
        make_runner(checkpoint=dict(intervall=2))


def test_sharded_weights_are_refused(run, monkeypatch):
    monkeypatch.setattr(
        'hmsa_mmseg.engine.hooks.safe_checkpoint_hook.'
        'FullyShardedDataParallel',
        torch.nn.Module,
    )
    with pytest.raises(TypeError, match='FSDP'):
        run()


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


@pytest.mark.parametrize(
    ('name', 'value'),
    [('linear.weight', torch.nan), ('norm.running_var', torch.inf)],
)
@pytest.mark.fault(
    'NaN or infinity in a weight or statistic when saving',
    'an error with its name; the last checkpoint stays',
)
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


@pytest.mark.fault(
    'a run with AMP, EMA and a schedule is resumed',
    'scaler, average and schedule are those that were saved',
)
def test_states_of_scaler_average_and_schedule_return(
    run, make_runner, tmp_path, load, amp
):
    options = dict(
        optim_wrapper={**amp, 'optimizer': dict(type='Adam', lr=0.1)},
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
    # The score of iteration 2 is still the best: no second file of the best.
    assert not list((tmp_path / 'end').glob('best*'))
    best = [r.message_hub.get_info('best_ckpt') for r in (end, whole)]
    assert best[0] == best[1]
    assert end.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()
    states = [dict(r.model.state_dict()) for r in (end, whole)]
    torch.testing.assert_close(*states, rtol=0, atol=0, equal_nan=True)


@pytest.mark.fault(
    '--resume with other processes or batch size',
    'a warning: the images come in another order',
)
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
