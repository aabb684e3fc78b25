"""mmseg's test.py, as it is, with this package's models and inference."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from driver.commands import test_result as read_result
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import Image

from hmsa_mmseg.visualization import class_iou, read_records, read_run

METRICS = ('aAcc', 'mIoU', 'mAcc')
PREPARED = "custom_hooks = [dict(type='InferencePreparationHook')]"


@pytest.fixture(scope='session')
def run_test(run_tool, config_file, trained, tmp_path_factory):
    """Return a function that tests the trained model with the stock tool.

    It takes a few lines of config more.
    """

    def run(*args, lines=(), **kwargs):
        path = tmp_path_factory.mktemp('tested')
        config = path / 'config.py'
        config.write_text(
            '\n'.join([f'_base_ = {str(config_file)!r}', *lines])
        )
        # Of several ranks only the first makes this folder, and the others
        # do not wait for it.
        (path / 'maps').mkdir()
        output = run_tool(
            *('test.py', config, trained.checkpoint),
            *('--work-dir', path / 'work', '--out', path / 'maps', *args),
            cwd=path,
            **kwargs,
        )
        return SimpleNamespace(
            path=path,
            output=output,
            metrics=read_result(path / 'work'),
            maps=[
                np.array(Image.open(file))
                for file in sorted((path / 'maps').iterdir())
            ],
        )

    return run


@pytest.fixture(scope='session')
def tested(run_test):
    """Test once, as the config says, and draw every image."""
    return run_test('--show-dir', 'pictures')


@pytest.fixture
def predict(config_file, trained, val_images):
    """Return a function that predicts in this process."""

    def run(**cfg_options):
        model = init_model(
            str(config_file), str(trained.checkpoint), 'cpu', cfg_options
        )
        results = inference_model(model, [str(image) for image in val_images])
        return [result.pred_sem_seg.data[0].numpy() for result in results]

    return run


@pytest.fixture
def flipped_mean(config_file, trained, val_images):
    """Return a function for the classes of the mean over flips."""
    model = init_model(str(config_file), str(trained.checkpoint), 'cpu')

    @torch.no_grad()
    def mean(scores):
        found = []
        for image in val_images:
            pixels = torch.from_numpy(np.array(Image.open(image)))
            pixels = pixels.permute(2, 0, 1)[None].flip(1)  # BGR, as read
            inputs = model.data_preprocessor(dict(inputs=pixels))['inputs']
            one = scores(model.encode_decode(inputs))
            other = scores(model.encode_decode(inputs.flip(-1)))
            found.append((one + other.flip(-1))[0].argmax(dim=0).numpy())
        return found

    return mean


def test_numbers_and_predictions(
    tested, trained, predict, same_maps, val_images
):
    for name in METRICS:
        assert tested.metrics[name] == trained.val[-1][name]
    assert [image.stem for image in val_images] == [
        file.stem for file in sorted((tested.path / 'maps').iterdir())
    ]
    assert len(np.unique(tested.maps)) > 1
    assert same_maps(tested.maps, predict()) > 0.999


def test_show_dir_holds_pictures_of_each_image(tested, val_images):
    root = tested.path / 'pictures'
    records = read_records(root)
    assert [record.image for record in records] == [
        f'aachen/{image.name}' for image in val_images
    ]
    for record in records:
        for path in record.pictures.values():
            with Image.open(root / path) as picture:
                assert picture.width == 128
        assert {'overlay', 'error', 'attn_1', 'winning_scale'} < {
            *record.pictures
        }
    drawn = np.array(Image.open(root / records[0].pictures['prediction']))
    palette = np.array(records[0].palette)
    # Scale maps are computed apart: a pixel between two classes may fall to
    # either side.
    same = (drawn == palette[tested.maps[0]]).all(axis=-1)
    assert same.mean() > 0.999
    iou = class_iou(records)
    assert 100 * np.nanmean(iou) == pytest.approx(
        tested.metrics['mIoU'], abs=0.01
    )
    run = read_run(root)
    assert run['metrics']['mIoU'] == pytest.approx(tested.metrics['mIoU'])
    assert run['num_images'] == len(val_images)


def test_scales_from_the_command_line_take_effect(
    run_test, tested, predict, same_maps
):
    found = run_test(options=['model.test_cfg.scales=(0.5,1.0)'])
    expected = predict(**{'model.test_cfg.scales': (0.5, 1.0)})
    assert same_maps(found.maps, expected) > 0.999
    assert same_maps(found.maps, tested.maps) < 0.99


def test_tta_averages_probabilities_over_flips_only(
    run_test, tested, config_file, flipped_mean, same_maps
):
    _, augment = Config.fromfile(config_file).tta_pipeline
    sizes, flips, *_ = augment.transforms
    assert (len(sizes), len(flips)) == (1, 2)
    found = run_test('--tta')
    expected = flipped_mean(lambda logits: logits.softmax(dim=1))
    assert same_maps(found.maps, expected) > 0.999
    assert same_maps(found.maps, tested.maps) < 0.999


def test_prepared(run_test, trained, flipped_mean, predict, same_maps):
    """With the mean of logits over flips, and with classes alone."""
    ours = "tta_model = dict(_delete_=True, type='AccumulatingTTAModel')"
    found = run_test('--tta', lines=[PREPARED, ours])
    assert 'norm layers folded into convolutions' in found.output
    expected = flipped_mean(lambda logits: logits)
    assert same_maps(found.maps, expected) > 0.999
    options = ['model.test_cfg.classes_only=True']
    found = run_test(lines=[PREPARED], options=options)
    assert same_maps(found.maps, predict()) > 0.999
    expected = trained.val[-1]['mIoU']
    assert found.metrics['mIoU'] == pytest.approx(expected, abs=0.1)


def test_half_precision(
    predict, same_maps, run_tool, config_file, tmp_path, read_run
):
    """In the API, and in the validation of a training."""
    found = predict(**{'model.test_cfg.dtype': 'bfloat16'})
    assert same_maps(found, predict()) > 0.95
    run_tool(
        *('train.py', config_file, '--work-dir', tmp_path),
        cwd=tmp_path,
        options=[
            'model.test_cfg.dtype=bfloat16',
            'model.test_cfg.classes_only=True',
            'train_cfg.max_iters=2',
            'train_cfg.val_interval=1',
        ],
    )
    run = read_run(tmp_path)
    assert len(run.val) == 2
    assert all(line['mIoU'] > 0 for line in run.val)
    assert all(np.isfinite(line['loss']) for line in run.train)


@pytest.mark.fault(
    'test.py in two processes, with an odd number of images',
    'the scores and maps of one',
)
def test_two_processes_give_the_same_numbers(run_test, tested):
    found = run_test('--show-dir', 'pictures', two_ranks=True)
    assert len(found.maps) == len(tested.maps)
    for first, second in zip(found.maps, tested.maps):
        np.testing.assert_array_equal(first, second)
    for name in METRICS:
        assert found.metrics[name] == tested.metrics[name]
    # Each has drawn its share.
    first, second = (
        read_records(run.path / 'pictures') for run in (tested, found)
    )
    assert first == second
    assert read_run(found.path / 'pictures')['num_images'] == len(found.maps)


@pytest.mark.parametrize(
    ('tool', 'option', 'texts'),
    [
        (
            *('test.py', 'model.decode_head.num_classes=7'),
            ('19 classes', 'classes=7'),
        ),
        (
            *('train.py', 'train_dataloader.dataset.data_root=missing'),
            ('data_root', 'missing'),
        ),
    ],
)
@pytest.mark.fault(
    'another num_classes in test.py, no such data_root in train.py',
    'the last line has the key and the values',
)
def test_errors_name_key_and_values(
    tool, option, texts, run_tool, config_file, trained, tmp_path
):
    """They come through mmseg's tools, as the last that is said."""
    checkpoint = [trained.checkpoint] * (tool == 'test.py')
    output = run_tool(
        *(tool, config_file, *checkpoint, '--work-dir', tmp_path),
        cwd=tmp_path,
        options=[option],
        fails=True,
    )
    message = output.rsplit('Error: ', 1)[1]
    assert all(text in message for text in texts)
