"""mmengine's loops draw results, and are otherwise what they were."""

import itertools

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import Runner
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from hmsa_mmseg.models.segmentors import AccumulatingTTAModel
from hmsa_mmseg.visualization import (
    ScaleMapsVisualizationHook,
    class_iou,
    read_records,
    read_run,
)
from hmsa_mmseg.visualization.scale_maps_step import predict_with_maps

NAMES = ('one/a.png', 'one/b.png', 'two/a.png', 'two/b.png', 'two/c.png')
SIZE = (40, 56)
META = dict(
    classes=('a', 'b', 'c', 'd', 'e'),
    palette=[[k * 50, 20, 200 - k * 40] for k in range(5)],
)
SCALES = (0.5, 1.0, 2.0)
LOAD = dict(type='LoadImageFromFile')
LABELS = dict(type='LoadAnnotations')
PACK = dict(type='PackSegInputs')
FLIPS = [
    LOAD,
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
            [LABELS],
            [PACK],
        ],
    ),
]
_count = itertools.count()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Return a folder of five images; two pairs share a name."""
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for name in NAMES:
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        label = rng.integers(0, 5, (5, 7)).astype(np.uint8)
        label = label.repeat(8, 0).repeat(8, 1)
        label[:3] = 255
        for kind, pixels in (('img', image), ('ann', label)):
            path = root / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    return root


@pytest.fixture
def data_set(root):
    def make(pipeline=(LOAD, LABELS, PACK), part='', **kwargs):
        return dict(
            type='BaseSegDataset',
            data_root=str(root),
            data_prefix=dict(img_path=f'img{part}', seg_map_path=f'ann{part}'),
            img_suffix='.png',
            seg_map_suffix='.png',
            metainfo=META,
            pipeline=list(pipeline),
            **kwargs,
        )

    return make


@pytest.fixture
def make_runner(tmp_path, data_set):
    """Return a function that makes a runner which draws to `tmp_path`."""

    def make(model, dataset=None, batch_size=1, hook=(), **visualizer):
        loader = dict(
            dataset=dataset or data_set(),
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
        metric = dict(type='IoUMetric')
        experiment = f'{tmp_path.name}_{next(_count)}'
        looks = dict(
            type='ScaleMapsVisualizer',
            name=experiment,
            vis_backends=[dict(type='LocalVisBackend')],
            save_dir=str(tmp_path),
        )
        draws = dict(type='ScaleMapsVisualizationHook', draw=True)
        return Runner(
            model=model,
            work_dir=str(tmp_path / 'work'),
            experiment_name=experiment,
            test_dataloader=loader,
            test_evaluator=metric,
            test_cfg={},
            val_dataloader=loader,
            val_evaluator=metric,
            val_cfg={},
            visualizer={**looks, **visualizer},
            default_hooks=dict(visualization={**draws, **dict(hook)}),
            default_scope='mmseg',
        )

    return make


@pytest.fixture
def stock(build_tiny, tiny_model_cfg):
    """Return mmseg's own model."""
    cfg = tiny_model_cfg()
    cfg.update(
        type='EncoderDecoder',
        decode_head=cfg.pop('decode_head')['seg_head'],
        train_cfg={},
        test_cfg=dict(mode='whole'),
    )
    return MODELS.build(ConfigDict(cfg)).eval()


def images(folder):
    return [record.image for record in read_records(folder)]


def assert_counted(folder, metrics):
    """All images, with the mIoU of the metric, which has two decimals."""
    assert images(folder) == sorted(NAMES)
    miou = 100 * np.nanmean(class_iou(read_records(folder)))
    assert miou == pytest.approx(metrics['mIoU'], abs=0.0051)


@pytest.mark.parametrize(
    ('batch_size', 'test_cfg'),
    [
        (2, dict(mode='whole', classes_only=True)),
        (1, dict(mode='slide', crop_size=(32, 32), stride=(16, 16))),
    ],
)
def test_every_image_is_drawn_and_counted_as_the_metric_does(
    build_lively, make_runner, tmp_path, batch_size, test_cfg
):
    model = build_lively(test_cfg=dict(scales=SCALES, **test_cfg))
    before = model.test_cfg
    metrics = make_runner(model, batch_size=batch_size).test()
    assert_counted(tmp_path, metrics)
    for record in read_records(tmp_path):
        assert record.scales == SCALES
        assert len(record.pictures) == 15
        for path in record.pictures.values():
            height, width, _ = cv2.imread(str(tmp_path / path)).shape
            assert width == SIZE[1]
            assert height >= SIZE[0]
    run = read_run(tmp_path)
    assert run['metrics']['mIoU'] == pytest.approx(metrics['mIoU'])
    assert (run['mode'], run['num_images']) == ('test', 5)
    assert run['scales'] == [*SCALES]
    assert run['dataset'] == 'BaseSegDataset'
    # Nothing of it stays with the model, nor when the loop raises.
    assert model.test_cfg == before
    assert 'test_step' not in vars(model)
    model.backbone = None
    with pytest.raises(TypeError):
        make_runner(model, batch_size=batch_size).test()
    assert model.test_cfg == before
    assert 'test_step' not in vars(model)


@pytest.mark.parametrize(
    ('mode', 'hook', 'expected'),
    [
        ('test', dict(interval=3), (NAMES[0], NAMES[3])),
        ('val', dict(val_images=3), NAMES[::2]),
    ],
)
def test_some_images_are_drawn(
    build_lively, make_runner, tmp_path, monkeypatch, mode, hook, expected
):
    calls, sent = [], []
    monkeypatch.setattr(
        'hmsa_mmseg.visualization.scale_maps_visualization_hook'
        '.predict_with_maps',
        lambda *args: calls.append(args) or predict_with_maps(*args),
    )
    runner = make_runner(build_lively(), hook=dict(hook, backend_images=2))
    monkeypatch.setattr(
        runner.visualizer,
        '_add_to_backends',
        lambda name, *args: sent.append(name),
    )
    getattr(runner, mode)()
    folder = tmp_path / 'val_iter_0' if mode == 'val' else tmp_path
    assert images(folder) == sorted(expected)
    assert read_run(folder)['mode'] == mode
    # Only what is drawn costs more.
    assert len(calls) == len(expected)
    assert len(sent) == 2 * 15
    assert sent[0] == f'{mode}/one/a/input'


def test_stock_model_in_the_folder_of_another_run(
    stock, build_lively, make_runner, tmp_path
):
    assert_counted(tmp_path, make_runner(stock).test())
    records = read_records(tmp_path)
    assert len(records[0].pictures) == 6
    assert records[0].scales == ()
    # The largest of five probabilities.
    assert all(0.2 < record.mean_confidence < 1 for record in records)
    make_runner(stock).test()
    with pytest.raises(ValueError, match='pictures of another run'):
        make_runner(build_lively()).test()
    assert read_records(tmp_path) == records


def test_wrapped_data_sets_resized_and_without_class_0(
    build_lively, make_runner, data_set, tmp_path
):
    labels = dict(LABELS, reduce_zero_label=True)
    resize = dict(type='Resize', scale=(32, 48), keep_ratio=True)
    pipeline = (LOAD, resize, labels, PACK)
    parts = [
        data_set(pipeline, part=part, reduce_zero_label=True)
        for part in ('/one', '/two')
    ]
    dataset = dict(
        type='ClassUniformDataset',
        dataset=dict(type='ConcatDataset', datasets=parts),
    )
    assert_counted(tmp_path, make_runner(build_lively(), dataset).test())
    records = read_records(tmp_path)
    assert {record.size for record in records} == {SIZE}
    # Of five classes in the files four are left.
    assert sum(record.labelled[4] for record in records) == 0


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('tta', [SegTTAModel, AccumulatingTTAModel])
def test_maps_with_tta(
    build_lively, make_runner, data_set, root, tmp_path, tta
):
    """Means over views, or those of the first one if logits are summed."""
    model = build_lively()
    image = cv2.imread(str(root / 'img' / NAMES[0]))
    model.test_cfg = ConfigDict({**model.test_cfg, 'scale_maps': True})
    results = []
    for pixels in (image, image[:, ::-1].copy()):
        inputs = torch.from_numpy(pixels).permute(2, 0, 1)
        sample = SegDataSample(metainfo=dict(ori_shape=SIZE, img_shape=SIZE))
        with torch.no_grad():
            results += model.test_step(
                dict(inputs=[inputs], data_samples=[sample])
            )
    del model.test_cfg['scale_maps']
    plain, mirrored = results
    runner = make_runner(tta(model), data_set(FLIPS))
    batch = next(iter(runner.test_dataloader))
    with torch.no_grad():
        [result] = predict_with_maps(
            runner.model, runner.model.test_step, batch
        )
        [expected] = runner.model.test_step(batch)
    # Classes are those of both views, as without maps.
    assert torch.equal(result.pred_sem_seg.data, expected.pred_sem_seg.data)
    is_mean = tta is SegTTAModel
    for name in ('scale_weights', 'scale_attn'):
        maps = plain.get(name).data, mirrored.get(name).data.flip(-1)
        close(result.get(name).data, sum(maps) / 2 if is_mean else maps[0])
        assert (maps[0] - maps[1]).abs().max() > 1e-3
    same = result.scale_sem_seg.data == plain.scale_sem_seg.data
    assert same.float().mean() > 0.99
    logits = plain.seg_logits.data, mirrored.seg_logits.data.flip(-1)
    if is_mean:
        mean = sum(one.softmax(dim=0) for one in logits) / 2
    else:
        mean = (sum(logits) / 2).softmax(dim=0)
    close(result.confidence.data, mean.amax(dim=0, keepdim=True))
    runner.test()
    records = read_records(tmp_path)
    assert [len(record.pictures) for record in records] == [15] * 5
    assert read_run(tmp_path)['tta'] == tta.__name__


def test_second_runner_draws_to_its_own_folder(
    build_lively, make_runner, tmp_path, stock
):
    """mmengine gives it the visualizer of the first, by the name of both."""
    for model in (build_lively(), stock):
        folder = tmp_path / type(model).__name__
        runner = make_runner(model, save_dir=str(folder), name=tmp_path.name)
        # As test.py --show-dir sets it.
        runner.cfg.visualizer = dict(save_dir=str(folder))
        runner.test()
        assert read_run(folder)['model'] == folder.name
        assert len(read_records(folder)) == 5


def test_show_alone_writes_nothing(
    build_lively, make_runner, tmp_path, monkeypatch
):
    runner = make_runner(build_lively(), hook=dict(show=True, wait_time=0.1))
    shown = []
    monkeypatch.setattr(
        runner.visualizer,
        'show',
        lambda drawn, **kwargs: shown.append((drawn, kwargs)),
    )
    runner.test()
    assert not list(tmp_path.rglob('scale_maps'))
    assert len(shown) == 5
    drawn, kwargs = shown[0]
    assert drawn.shape == (SIZE[0], 2 * SIZE[1], 3)
    assert kwargs == dict(win_name='test_one/a.png', wait_time=0.1)


def test_other_visualizer_and_senseless_numbers(
    build_lively, make_runner, tmp_path
):
    options = dict(type='SegLocalVisualizer')
    with pytest.raises(TypeError, match='got SegLocalVisualizer'):
        make_runner(build_lively(), **options).test()
    # Nothing is needed nor done before --show-dir.
    make_runner(build_lively(), hook=dict(draw=False), **options).test()
    assert not list(tmp_path.rglob('scale_maps'))
    for name, value in (('interval', 0), ('val_images', 1.5)):
        with pytest.raises(ValueError, match=f'{name} must be an integer'):
            ScaleMapsVisualizationHook(**{name: value})


@pytest.mark.fault(
    'float and 16-bit images: pictures',
    'drawn as the loader of the data set reads them',
)
@pytest.mark.fault(
    'an image that the loader of the data set cannot read: pictures',
    'an error with the path',
)
def test_images_as_the_loader_of_the_data_set_reads_them(
    build_lively, make_runner, data_set, root, tmp_path
):
    model = build_lively(test_cfg=dict(mode='whole', scales=SCALES))
    load = dict(LOAD, color_type='unchanged', to_float32=True)
    dataset = data_set((load, LABELS, PACK), '_tif')
    dataset.update(img_suffix='.tif')
    dataset['data_prefix']['seg_map_path'] = 'ann'
    # From black to white, in a range that is not that of 8 bits.
    ramp = np.broadcast_to(np.linspace(0, 255, SIZE[1])[:, None], (*SIZE, 3))
    for dtype in (np.float32, np.uint16):
        for name in NAMES:
            path = (root / 'img_tif' / name).with_suffix('.tif')
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), (100 * ramp).astype(dtype))
        folder = tmp_path / dtype.__name__
        runner = make_runner(model, dataset, save_dir=str(folder))
        runner.test()
        for record in read_records(folder):
            drawn = cv2.imread(str(folder / record.pictures['input']))
            assert np.abs(drawn - ramp).max() < 4
    (hook,) = (
        h for h in runner.hooks if isinstance(h, ScaleMapsVisualizationHook)
    )
    path.write_bytes(b'none')
    with pytest.raises(ValueError, match=str(path)):
        hook._read(str(path))
