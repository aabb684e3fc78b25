"""mmseg's test.py, as it is, on a model of this package."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import Image

from hmsa_mmseg.visualization import class_iou, read_records, read_run

METRICS = ('aAcc', 'mIoU', 'mAcc')


def read_metrics(path):
    """Read the report of test.py.

    All processes write the same file: what one has written may end in the
    last characters of another, whose times have more digits.
    """
    return json.JSONDecoder().raw_decode(path.read_text())[0]


@pytest.fixture(scope='session')
def run_test(run_tool, config_file, trained, tmp_path_factory):
    """Return a function that tests the trained model with the stock tool."""

    def run(*args, **kwargs):
        path = tmp_path_factory.mktemp('tested')
        # Of several ranks only the first makes this folder, and the others
        # do not wait for it.
        (path / 'maps').mkdir()
        run_tool(
            *('test.py', config_file, trained.checkpoint),
            *('--work-dir', path / 'work', '--out', path / 'maps', *args),
            cwd=path,
            **kwargs,
        )
        (metrics,) = path.glob('work/*/*.json')
        return SimpleNamespace(
            path=path,
            metrics=read_metrics(metrics),
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


def test_metrics_equal_those_of_the_training_run(tested, trained):
    for name in METRICS:
        assert tested.metrics[name] == trained.val[-1][name]


def test_out_holds_the_predictions(tested, predict, same_maps, val_images):
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
                assert picture.height >= 64
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


def test_tta_averages_over_flips_only(
    run_test, tested, config_file, trained, val_images, same_maps
):
    cfg = Config.fromfile(config_file)
    _, augment = cfg.tta_pipeline
    sizes, flips, *_ = augment.transforms
    assert (len(sizes), len(flips)) == (1, 2)
    found = run_test('--tta')
    model = init_model(cfg, str(trained.checkpoint), 'cpu')
    expected = []
    for image in val_images:
        pixels = torch.from_numpy(np.array(Image.open(image)))
        pixels = pixels.permute(2, 0, 1)[None].flip(1)  # BGR, as read
        data = model.data_preprocessor(dict(inputs=pixels))
        with torch.no_grad():
            scores = [
                model.encode_decode(inputs).softmax(dim=1)
                for inputs in (data['inputs'], data['inputs'].flip(-1))
            ]
        mean = (scores[0] + scores[1].flip(-1)) / 2
        expected.append(mean[0].argmax(dim=0).numpy())
    assert same_maps(found.maps, expected) > 0.999
    assert same_maps(found.maps, tested.maps) < 0.999


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
