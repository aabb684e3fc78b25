"""What the suite `zoo` counts, times and evaluates."""

import json
from pathlib import Path

import benchmark
import pytest
import torch
from benchmarks import zoo
from benchmarks.cases import Options, rows_of
from benchmarks.networks import build, single_scale
from mmengine.config import Config

TINY = Path(__file__).with_name('tiny_cityscapes.py')
OCRNET = 'ocrnet_hr48_4xb2-160k_cityscapes-512x1024'
SMALL = Options(size='small', rounds=1)


@pytest.fixture
def ours():
    return Config.fromfile(TINY)


@pytest.mark.slow
def test_a_model_that_fails_is_a_row(tmp_path, ours):
    """A model of mmseg, one of ours, and one that cannot be built."""
    paths = [tmp_path / f'{name}.py' for name in ('stock', 'own', 'wrong')]
    single_scale(ours).dump(paths[0])
    ours.dump(paths[1])
    ours.model.decode_head.seg_head[1].type = 'NoSuchHead'
    ours.dump(paths[2])
    argv = ['zoo', '--size', 'small', '--out', str(tmp_path), '--rounds', '1']
    benchmark.main([*argv, '--models', *map(str, paths)])
    found = json.loads((tmp_path / 'data/zoo.json').read_text())
    rows = {(row['case'], row['way']): row for row in found['rows']}
    for case in (('stock', zoo.FLIPPED), ('own', zoo.BLENDED)):
        assert rows[case]['gflop'] > rows[case[0], zoo.SINGLE]['gflop']
        assert rows[case]['cpu_ms'] > 0
    for case in ('wrong', 'wrong, training'):
        assert 'NoSuchHead' in rows[case, '']['error']
    (trained,) = (
        row for row in found['rows'] if row['case'] == 'own, training'
    )
    assert trained['gflop'] > 0
    assert (tmp_path / 'zoo.png').is_file()


def rows_of_test(tmp_path, cfg, options):
    cfg.dump(tmp_path / 'model.py')
    rows = rows_of(zoo.test_case(tmp_path / 'model.py', options), options)
    return {row['way']: row for row in rows}


def test_one_scale_of_a_hierarchical_model(ours):
    model = build(ours, 'cpu')
    run = zoo.test(model, zoo.SINGLE, (32, 48), 'cpu')
    (found,) = run()
    assert tuple(model.test_cfg.scales) == (0.5, 1.0, 2.0)
    model.test_cfg.scales = (1.0,)
    (expected,) = zoo.test(model, zoo.BLENDED, (32, 48), 'cpu')()
    assert torch.equal(found.seg_logits.data, expected.seg_logits.data)


def test_what_is_counted_and_timed(ours, tmp_path):
    cfg = single_scale(ours)
    cfg.model.test_cfg = dict(
        mode='slide', crop_size=(64, 64), stride=(32, 32)
    )
    sliding = rows_of_test(tmp_path, cfg, SMALL)[zoo.SINGLE]
    cfg.model.test_cfg = dict(mode='whole')
    whole = rows_of_test(tmp_path, cfg, SMALL)[zoo.SINGLE]
    # Three windows of half the image, and thrice what is done once a window.
    assert sliding['gflop'] == pytest.approx(1.5 * whole['gflop'], rel=1e-2)
    # Large tests are not timed.
    options = SMALL._replace(max_tflop=1.01 * whole['gflop'] / 1e3)
    found = rows_of_test(tmp_path, cfg, options)
    assert found[zoo.SINGLE]['cpu_ms'] > 0
    assert 'ms' not in found[zoo.FLIPPED]
    assert 'not timed' in found[zoo.FLIPPED]['error']


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        # From docs/en/model_zoo.md of mmseg 1.2.2, whose metafile of OCRNet
        # has a heading where it should name the data set.
        (OCRNET, [81.35, 82.70]),
        ('segformer_mit-b5_8xb1-160k_cityscapes-1024x1024', [82.25, 83.48]),
        ('ocrnet_hr48_4xb4-80k_ade20k-512x512', []),
        ('no_config_of_the_zoo', []),
    ],
)
def test_published_figures(name, expected):
    scores = zoo._scores(name, Config(), (), Options())
    assert [one['miou'] for one in scores.values()] == expected


def test_weights_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    options = Options(weights=tmp_path)
    assert zoo.find_weights(OCRNET, options) == []
    cached = 'ocrnet_hr48_512x1024_160k_cityscapes_20200602_191037-dfbf1b0c'
    cached = tmp_path / 'hub' / 'checkpoints' / f'{cached}.pth'
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert zoo.find_weights(OCRNET, Options()) == [cached]
    assert zoo.find_weights('other', Options()) == []
    named = tmp_path / f'{OCRNET}_123.pth'
    named.touch()
    assert zoo.find_weights(OCRNET, options)[0] == named


def test_evaluated_with_the_weights(ours, data_root, tmp_path):
    model = build(ours, 'cpu')
    weights, state = tmp_path / 'own.pth', model.state_dict()
    torch.save(dict(state_dict=state), weights)
    single, blended = (
        zoo.evaluate(ours, weights, data_root, mode)
        for mode in (zoo.SINGLE, zoo.BLENDED)
    )
    assert 0 < single != blended
    state.popitem()
    torch.save(dict(state_dict=state), weights)
    with pytest.raises(RuntimeError, match='Missing key'):
        zoo.evaluate(ours, weights, data_root, zoo.SINGLE)


def test_default_models_are_there():
    found = [zoo.find_model(name).stem for name in zoo.DEFAULT]
    assert found == list(zoo.DEFAULT)
    # With a case for the test and one for the training of each.
    assert len(zoo.cases(Options())) == 2 * len(found) + 1
