"""Bad input to mmseg's tools: they stop, and name key or file and values."""

import pytest


def last_error(output):
    """Return the message of the exception that ended the tool."""
    return output.rsplit('Error: ', 1)[1]


def test_checkpoint_of_another_number_of_classes(
    run_tool, config_file, trained, tmp_path
):
    output = run_tool(
        *('test.py', config_file, trained.checkpoint, '--work-dir', tmp_path),
        cwd=tmp_path,
        options=['model.decode_head.num_classes=7'],
        fails=True,
    )
    message = last_error(output)
    assert '19 classes' in message
    assert 'num_classes=7' in message


def test_scales_that_make_no_sense(run_tool, config_file, trained, tmp_path):
    output = run_tool(
        *('test.py', config_file, trained.checkpoint, '--work-dir', tmp_path),
        cwd=tmp_path,
        options=['model.test_cfg.scales=(0.5,-1.0)'],
        fails=True,
    )
    message = last_error(output)
    assert 'model.test_cfg.scales' in message
    assert '-1.0' in message
    assert 'positive' in message


@pytest.mark.parametrize('case', ['missing', 'empty'])
def test_data_root_without_images(run_tool, config_file, tmp_path, case):
    root = tmp_path / case
    if case == 'empty':
        for folder in ('leftImg8bit', 'gtFine'):
            (root / folder / 'train').mkdir(parents=True)
    output = run_tool(
        *('train.py', config_file, '--work-dir', tmp_path / 'work'),
        cwd=tmp_path,
        options=[f'train_dataloader.dataset.data_root={root}'],
        fails=True,
    )
    message = last_error(output)
    assert str(root) in message
    key = dict(missing='data_root', empty='data_prefix.img_path')[case]
    assert key in message
