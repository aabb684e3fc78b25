"""Images per second, of data sets of any size."""

import json
import math

import pytest
import torch

from hmsa_mmseg.utils import safe_load

TOOL = 'analysis_tools/benchmark.py'
NUM_IMAGES = 3


def read(folder):
    (path,) = folder.glob('fps_*.json')
    return json.loads(path.read_text())


@pytest.fixture
def measured(load_tool, config_file, monkeypatch, tmp_path):
    """Return a function that runs the tool by a clock of known speed."""
    tool = load_tool(TOOL)
    passes = []

    def run(*args, seconds=lambda i: 0.25, code=0):
        clock = [0.0]

        class Spy:
            def __init__(self, model):
                self.model = model

            def __call__(self, inputs, data_samples, mode):
                assert mode == 'predict'
                result = self.model(inputs, data_samples, mode=mode)
                assert result[0].pred_sem_seg.shape == (64, 128)
                clock[0] += seconds(len(passes))
                passes.append(self.model.state_dict())

            def data_preprocessor(self, data, training):
                # As in training images would be padded or refused.
                assert training is False
                return self.model.data_preprocessor(data, training)

        original = tool.seconds_per_image
        monkeypatch.setattr(
            tool,
            'seconds_per_image',
            lambda model, *rest: original(Spy(model), *rest),
        )
        monkeypatch.setattr(tool.time, 'perf_counter', lambda: clock[0])
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
        args = [config_file, *args, '--work-dir', tmp_path / 'work']
        assert tool.main([*map(str, args)]) == code
        return passes

    return run


def test_stock_gives_no_number(
    run_stock, config_file, random_weights, tmp_path
):
    # Until 200 images have been seen it keeps no result.
    run_stock(TOOL, config_file, random_weights, '--work-dir', 'work')
    found = read(tmp_path / 'work')
    assert math.isnan(found['average_fps']), (
        f"mmseg's {TOOL} works again: tools/{TOOL} and its tests can go, and "
        'its row in docs/tools.md changes'
    )


def test_fewer_images_than_the_data_set_has(
    measured, random_weights, tmp_path, capsys
):
    # Of two images the first does not count.
    passes = measured(
        *(random_weights, '--num-images', 2),
        seconds=lambda i: (100, 0.25)[i],
    )
    assert len(passes) == 2
    found = read(tmp_path / 'work')
    assert found['average_fps'] == 4
    assert found['images_timed'] == 1
    assert found['checkpoint'] == str(random_weights)
    assert '3 images in the test set, 2 are run' in capsys.readouterr().out
    expected = safe_load(random_weights)['state_dict']
    assert all(torch.equal(passes[0][key], expected[key]) for key in expected)


def test_more_images_than_the_data_set_has(measured, tmp_path, capsys):
    # 5 that do not count, then 3 that do, in each of two runs.
    seconds = [100] * 5 + [0.5] * 3 + [100] * 5 + [0.25] * 3
    passes = measured(
        *('--num-images', 8, '--repeat-times', 2, '--log-interval', 7),
        seconds=seconds.__getitem__,
    )
    assert len(passes) == 16
    found = read(tmp_path / 'work')
    assert found['overall_fps_1'] == 2
    assert found['overall_fps_2'] == 4
    assert found['average_fps'] == 3
    assert found['fps_variance'] == 1
    assert found['median_ms'] == 375
    assert found['images_in_dataset'] == NUM_IMAGES
    assert found['checkpoint'] is None
    said = capsys.readouterr().out
    assert 'no checkpoint: the weights are random' in said
    assert 'Done image [7  / 8], fps: 2.00 img / s' in said
    assert 'Average fps of 2 evaluations: 3.0' in said


def test_a_checkpoint_that_is_missing(measured, tmp_path, capsys):
    assert measured(tmp_path / 'typo.pth', code=1) == []
    assert 'typo.pth' in capsys.readouterr().err
    assert not (tmp_path / 'work').exists()


def test_a_config_without_a_test_set(measured, capsys):
    none = ('--cfg-options', 'test_dataloader=None')
    assert measured(*none, code=1) == []
    assert 'has no test_dataloader' in capsys.readouterr().err
