"""mmseg's test.py and its API with this package's ways of inference."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import Image

HOOK = "custom_hooks = [dict(type='InferencePreparationHook')]"


@pytest.fixture(scope='session')
def run_test(run_tool, config_file, trained, tmp_path_factory):
    """Return a function that tests with a few lines of config more."""

    def run(*args, lines=(), options=()):
        path = tmp_path_factory.mktemp('inference')
        config = path / 'config.py'
        config.write_text(
            '\n'.join([f'_base_ = {str(config_file)!r}', *lines])
        )
        output = run_tool(
            *('test.py', config, trained.checkpoint),
            *('--work-dir', path / 'work', '--out', path / 'maps', *args),
            cwd=path,
            options=options,
        )
        (metrics,) = path.glob('work/*/*.json')
        files = sorted((path / 'maps').iterdir())
        return SimpleNamespace(
            maps=[np.array(Image.open(file)) for file in files],
            metrics=json.loads(metrics.read_text()),
            output=output,
        )

    return run


@pytest.fixture
def predict(config_file, trained, val_images):
    """Return a function that predicts in this process."""

    def run(**cfg_options):
        model = init_model(
            str(config_file), str(trained.checkpoint), 'cpu', cfg_options
        )
        return inference_model(model, [str(image) for image in val_images])

    return run


def maps_of(results):
    return [result.pred_sem_seg.data[0].numpy() for result in results]


def test_prepared_classes_only(run_test, trained, predict, same_maps):
    found = run_test(
        lines=[HOOK],
        options=['model.test_cfg.classes_only=True'],
    )
    assert 'norm layers folded into convolutions' in found.output
    assert same_maps(found.maps, maps_of(predict())) > 0.999
    assert found.metrics['mIoU'] == pytest.approx(
        trained.val[-1]['mIoU'], abs=0.1
    )


@pytest.fixture
def flipped_mean(config_file, trained, val_images):
    """Classes of the mean of logits of each image and its mirror image."""
    model = init_model(
        Config.fromfile(config_file), str(trained.checkpoint), 'cpu'
    )
    found = []
    for image in val_images:
        pixels = torch.from_numpy(np.array(Image.open(image)))
        pixels = pixels.permute(2, 0, 1)[None].flip(1)  # BGR, as read
        data = model.data_preprocessor(dict(inputs=pixels))
        with torch.no_grad():
            one, other = (
                model.encode_decode(inputs)
                for inputs in (data['inputs'], data['inputs'].flip(-1))
            )
        mean = one + other.flip(-1)
        found.append(mean[0].argmax(dim=0).numpy())
    return found


def test_tta_averages_logits(run_test, flipped_mean, predict, same_maps):
    found = run_test(
        '--tta',
        lines=[
            HOOK,
            "tta_model = dict(_delete_=True, type='AccumulatingTTAModel')",
        ],
    )
    assert 'norm layers folded into convolutions' in found.output
    assert same_maps(found.maps, flipped_mean) > 0.999
    assert same_maps(found.maps, maps_of(predict())) < 0.999


def test_api(predict, same_maps):
    exact = predict()
    assert 'seg_logits' in exact[0]
    for cfg, share in (
        (dict(classes_only=True), 0.999),
        (dict(dtype='bfloat16'), 0.95),
    ):
        options = {
            f'model.test_cfg.{key}': value for key, value in cfg.items()
        }
        found = predict(**options)
        assert ('seg_logits' in found[0]) == (not cfg.get('classes_only'))
        assert same_maps(maps_of(found), maps_of(exact)) > share


def test_validation_while_training(
    run_tool, config_file, tmp_path_factory, read_run
):
    """In half precision and without logits, as in `test_cfg`."""
    path = tmp_path_factory.mktemp('half')
    run_tool(
        *('train.py', config_file, '--work-dir', path),
        cwd=path,
        options=[
            'model.test_cfg.dtype=bfloat16',
            'model.test_cfg.classes_only=True',
            'train_cfg.max_iters=2',
            'train_cfg.val_interval=1',
        ],
    )
    run = read_run(path)
    assert len(run.val) == 2
    assert all(line['mIoU'] > 0 for line in run.val)
    assert all(np.isfinite(line['loss']) for line in run.train)
