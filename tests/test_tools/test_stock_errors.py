"""Bad input to mmseg's tools: they stop, and name key or file and values."""

import pytest


def last_error(output):
    """Return the message of the exception that ended the tool."""
    return output.rsplit('Error: ', 1)[1]


@pytest.mark.parametrize(
    ('option', 'texts'),
    [
        ('decode_head.num_classes=7', ['19 classes', 'num_classes=7']),
        (
            'test_cfg.scales=(0.5,-1.0)',
            ['-1.0', 'positive'],
        ),
    ],
)
def test_models_that_make_no_sense(
    run_tool, config_file, trained, tmp_path, option, texts
):
    output = run_tool(
        *('test.py', config_file, trained.checkpoint, '--work-dir', tmp_path),
        cwd=tmp_path,
        options=[f'model.{option}'],
        fails=True,
    )
    assert all(text in last_error(output) for text in texts)


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
