"""mmengine's loops draw results, and are otherwise what they were."""

import itertools
import warnings

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample

from hmsa_mmseg.models.segmentors import AccumulatingTTAModel
from hmsa_mmseg.visualization import (
    ScaleMapsVisualizationHook,
    class_iou,
    draw_pictures,
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
            [
                dict(type='RandomFlip', prob=0.0),
                dict(type='RandomFlip', prob=1.0),
            ],
            [LABELS],
            [PACK],
        ],
    ),
]
_count = itertools.count()


class PerClassIoU(IoUMetric):
    """Keeps the IoU of each class, which mmseg only prints."""

    iou = None

    def compute_metrics(self, results):
        intersect, union, *_ = (sum(areas) for areas in zip(*results))
        type(self).iou = (intersect / union).double().numpy()
        return super().compute_metrics(results)


@TRANSFORMS.register_module()
class PutZero:
    """Labels without 255."""

    def __call__(self, results):
        labels = results['gt_seg_map']
        labels[labels == 255] = 0
        return results


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
    def make(pipeline=(LOAD, LABELS, PACK), **kwargs):
        return dict(
            dict(
                type='BaseSegDataset',
                data_root=str(root),
                data_prefix=dict(img_path='img', seg_map_path='ann'),
                img_suffix='.png',
                seg_map_suffix='.png',
                metainfo=META,
                pipeline=list(pipeline),
                reduce_zero_label=False,
            ),
            **kwargs,
        )

    return make


@pytest.fixture
def make_runner(tmp_path, data_set):
    """Return a function that makes a runner which draws to `tmp_path`."""

    def make(
        model,
        dataset=None,
        batch_size=1,
        hook=(),
        evaluator='IoUMetric',
        save_dir=tmp_path,
        visualizer='ScaleMapsVisualizer',
        name=None,
    ):
        loader = dict(
            dataset=dataset or data_set(),
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
        if isinstance(evaluator, str):
            evaluator = dict(type=evaluator)
        experiment = f'{tmp_path.name}_{next(_count)}'
        return Runner(
            model=model,
            work_dir=str(tmp_path / 'work'),
            experiment_name=experiment,
            test_dataloader=loader,
            test_evaluator=evaluator,
            test_cfg=dict(),
            val_dataloader=loader,
            val_evaluator=evaluator,
            val_cfg=dict(),
            visualizer=dict(
                type=visualizer,
                name=name or experiment,
                vis_backends=[dict(type='LocalVisBackend')],
                save_dir=str(save_dir),
            ),
            default_hooks=dict(
                visualization={
                    'type': 'ScaleMapsVisualizationHook',
                    'draw': True,
                    **dict(hook),
                }
            ),
            default_scope='mmseg',
        )

    return make


@pytest.fixture
def evaluator():
    PerClassIoU.iou = None
    return PerClassIoU(iou_metrics=['mIoU'])


@pytest.fixture
def stock(build_tiny, tiny_model_cfg):
    """Return a function that builds mmseg's own model."""

    def make(**head):
        cfg = tiny_model_cfg()
        seg_head = cfg.pop('decode_head')['seg_head']
        cfg.update(
            type='EncoderDecoder',
            decode_head={**seg_head, **head},
            train_cfg={},
            test_cfg=dict(mode='whole'),
        )
        return MODELS.build(ConfigDict(cfg)).eval()

    return make


def images(folder):
    return [record.image for record in read_records(folder)]


@pytest.mark.parametrize(
    ('batch_size', 'test_cfg'),
    [
        (1, dict(mode='whole')),
        (2, dict(mode='whole', classes_only=True)),
        (1, dict(mode='slide', crop_size=(32, 32), stride=(16, 16))),
    ],
)
def test_every_image_is_drawn_and_counted_as_the_metric_does(
    build_lively, make_runner, evaluator, tmp_path, batch_size, test_cfg
):
    model = build_lively(test_cfg=dict(scales=SCALES, **test_cfg))
    before = model.test_cfg
    runner = make_runner(model, batch_size=batch_size, evaluator=[evaluator])
    metrics = runner.test()
    records = read_records(tmp_path)
    assert [record.image for record in records] == sorted(NAMES)
    for record in records:
        assert record.scales == SCALES
        assert len(record.pictures) == 15
        for path in record.pictures.values():
            height, width, _ = cv2.imread(str(tmp_path / path)).shape
            assert width == SIZE[1]
            assert height >= SIZE[0]
    np.testing.assert_allclose(class_iou(records), PerClassIoU.iou, rtol=1e-6)
    assert len(set(np.round(PerClassIoU.iou, 3))) > 1
    run = read_run(tmp_path)
    assert run['metrics']['mIoU'] == pytest.approx(metrics['mIoU'])
    assert (run['mode'], run['num_images']) == ('test', 5)
    assert run['scales'] == [*SCALES]
    assert run['dataset'] == 'BaseSegDataset'
    # Nothing of it stays with the model.
    assert model.test_cfg == before
    assert 'test_step' not in vars(model)


def test_pictures_are_those_of_the_results(
    build_lively, make_runner, tmp_path, root
):
    model = build_lively()
    runner = make_runner(model)
    runner.test()
    model.test_cfg = ConfigDict({**model.test_cfg, 'scale_maps': True})
    data = runner.test_dataloader.dataset[3]
    with torch.no_grad():
        [result] = model.test_step(
            {key: [value] for key, value in data.items()}
        )
    image = cv2.imread(str(root / 'img' / 'two' / 'b.png'))[..., ::-1]
    expected = draw_pictures(
        image.copy(), result, META['classes'], META['palette']
    )
    folder = tmp_path / 'scale_maps' / 'two' / 'b'
    for key in ('prediction', 'ground_truth', 'scale_0.5', 'winning_scale'):
        found = cv2.imread(str(folder / f'{key}.png'))[..., ::-1]
        np.testing.assert_array_equal(found, expected[key])


def test_nothing_is_done_nor_said_without_draw(
    build_lively, make_runner, tmp_path, monkeypatch
):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ScaleMapsVisualizationHook()
    model = build_lively()
    runner = make_runner(
        model, hook=dict(draw=False), visualizer='SegLocalVisualizer'
    )
    said = []
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    runner.test()
    assert not list(tmp_path.rglob('scale_maps'))
    assert said == []


def test_interval(build_lively, make_runner, tmp_path):
    runner = make_runner(build_lively(), hook=dict(interval=3), batch_size=2)
    runner.test()
    assert images(tmp_path) == [NAMES[0], NAMES[3]]


def test_only_what_is_drawn_costs_more(
    build_lively, make_runner, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(
        'hmsa_mmseg.visualization.scale_maps_visualization_hook'
        '.predict_with_maps',
        lambda *args: calls.append(args) or predict_with_maps(*args),
    )
    make_runner(build_lively(), hook=dict(interval=3)).test()
    assert len(calls) == 2


@pytest.mark.parametrize(
    ('val_images', 'expected'),
    [(1, NAMES[:1]), (2, (NAMES[0], NAMES[3])), (3, NAMES[::2]), (9, NAMES)],
)
def test_validation_draws_a_few_images(
    build_lively, make_runner, tmp_path, val_images, expected
):
    runner = make_runner(build_lively(), hook=dict(val_images=val_images))
    runner.val()
    folder = tmp_path / 'val_iter_0'
    assert images(folder) == sorted(expected)
    assert read_run(folder)['mode'] == 'val'


def test_model_is_as_before_when_the_loop_raises(
    build_lively, make_runner, monkeypatch
):
    model = build_lively()
    before = model.test_cfg

    def fail(*args):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(model, 'extract_feat', fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        make_runner(model).test()
    assert model.test_cfg == before
    assert 'test_step' not in vars(model)


def test_stock_model(stock, make_runner, evaluator, tmp_path):
    model = stock()
    make_runner(model, evaluator=[evaluator]).test()
    records = read_records(tmp_path)
    assert [record.image for record in records] == sorted(NAMES)
    assert [*records[0].pictures] == [
        *('input', 'overlay', 'prediction', 'ground_truth', 'error'),
        'confidence',
    ]
    assert records[0].scales == ()
    np.testing.assert_allclose(class_iou(records), PerClassIoU.iou, rtol=1e-6)
    # The largest of five probabilities.
    assert all(0.2 < record.mean_confidence < 1 for record in records)


def test_binary_head(stock, make_runner, data_set, tmp_path):
    model = stock(num_classes=2, out_channels=1, threshold=0.5)
    dataset = data_set((LOAD, PACK), metainfo=dict(classes=('no', 'yes')))
    make_runner(model, dataset, evaluator=[]).test()
    records = read_records(tmp_path)
    assert len(records) == 5
    assert all(0.5 <= record.mean_confidence <= 1 for record in records)


def test_confidence_of_a_binary_head_with_tta(stock, make_runner, data_set):
    model = stock(num_classes=2, out_channels=1, threshold=0.9)
    dataset = data_set(FLIPS)
    runner = make_runner(SegTTAModel(model), dataset, evaluator=[])
    batch = next(iter(runner.test_dataloader))
    pixels = batch['inputs'][0][0]
    meta = dict(ori_shape=SIZE, img_shape=SIZE)
    views = [
        model.test_step(
            dict(inputs=[x], data_samples=[SegDataSample(metainfo=meta)])
        )[0].seg_logits.data
        for x in (pixels, pixels.flip(-1))
    ]
    mean = (views[0] + views[1].flip(-1)) / 2
    result = step(runner)
    # mmseg takes the sigmoid of probabilities once more, 0.73 at most.
    assert not result.pred_sem_seg.data.any()
    close(result.confidence.data, 1 - mean)


def test_without_labels(build_lively, make_runner, data_set, tmp_path):
    runner = make_runner(build_lively(), data_set((LOAD, PACK)), evaluator=[])
    runner.test()
    (record, *_) = records = read_records(tmp_path)
    assert len(records) == 5
    assert 'error' not in record.pictures
    assert record.labelled is None


def test_resized_images(build_lively, make_runner, data_set, tmp_path):
    resize = dict(type='Resize', scale=(32, 48), keep_ratio=True)
    pipeline = (LOAD, resize, LABELS, PACK)
    make_runner(build_lively(), data_set(pipeline)).test()
    assert {record.size for record in read_records(tmp_path)} == {SIZE}


def test_labels_of_another_size_are_an_error(
    build_lively, make_runner, data_set
):
    resize = dict(type='Resize', scale=(32, 48), keep_ratio=True)
    pipeline = (LOAD, LABELS, resize, PACK)
    runner = make_runner(build_lively(), data_set(pipeline), evaluator=[])
    with pytest.raises(ValueError, match=r'one/a.png: ground truth of'):
        runner.test()


def test_reduce_zero_label(
    build_lively, make_runner, data_set, evaluator, tmp_path
):
    pipeline = (LOAD, dict(LABELS, reduce_zero_label=True), PACK)
    dataset = data_set(pipeline, reduce_zero_label=True)
    make_runner(build_lively(), dataset, evaluator=[evaluator]).test()
    records = read_records(tmp_path)
    np.testing.assert_allclose(class_iou(records), PerClassIoU.iou, rtol=1e-6)
    # Of five classes in the files four are left.
    assert sum(record.labelled[4] for record in records) == 0


def test_pixels_that_the_metric_ignores(
    build_lively, make_runner, data_set, tmp_path
):
    """The data set says 255, which no label is."""
    ignores_road = PerClassIoU(ignore_index=0)
    labels = dict(type='LoadAnnotations', reduce_zero_label=False)
    clip = dict(type='PutZero')
    dataset = data_set((LOAD, labels, clip, PACK))
    make_runner(build_lively(), dataset, evaluator=[ignores_road]).test()
    records = read_records(tmp_path)
    assert all(record.labelled[0] == 0 for record in records)
    np.testing.assert_allclose(class_iou(records), PerClassIoU.iou, rtol=1e-6)


def test_wrapped_data_sets(
    build_lively, make_runner, data_set, evaluator, tmp_path
):
    parts = [
        data_set(
            data_prefix=dict(img_path=f'img/{k}', seg_map_path=f'ann/{k}')
        )
        for k in ('one', 'two')
    ]
    dataset = dict(
        type='ClassUniformDataset',
        dataset=dict(type='ConcatDataset', datasets=parts),
    )
    make_runner(build_lively(), dataset, evaluator=[evaluator]).test()
    assert images(tmp_path) == sorted(NAMES)
    np.testing.assert_allclose(
        class_iou(read_records(tmp_path)), PerClassIoU.iou, rtol=1e-6
    )


@pytest.fixture
def views(build_lively, root):
    """A model, and what it says of an image and of its mirror image."""
    model = build_lively()
    image = cv2.imread(str(root / 'img' / NAMES[0]))
    model.test_cfg = ConfigDict({**model.test_cfg, 'scale_maps': True})
    results = []
    for pixels in (image, image[:, ::-1].copy()):
        inputs = torch.from_numpy(pixels).permute(2, 0, 1)
        meta = dict(ori_shape=SIZE, img_shape=SIZE)
        sample = SegDataSample(metainfo=meta)
        with torch.no_grad():
            [result] = model.test_step(
                dict(inputs=[inputs], data_samples=[sample])
            )
        results.append(result)
    del model.test_cfg['scale_maps']
    return model, results


def step(runner):
    """Results of the first image as the hook has them drawn."""
    batch = next(iter(runner.test_dataloader))
    with torch.no_grad():
        [result] = predict_with_maps(
            runner.model, runner.model.test_step, batch
        )
    return result


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_maps_with_tta_are_means_over_views(
    views, make_runner, data_set, tmp_path
):
    model, (plain, mirrored) = views
    runner = make_runner(SegTTAModel(model), data_set(FLIPS))
    result = step(runner)
    for name in ('scale_weights', 'scale_attn'):
        maps = plain.get(name).data, mirrored.get(name).data.flip(-1)
        close(result.get(name).data, sum(maps) / 2)
        assert (maps[0] - maps[1]).abs().max() > 1e-3
    same = result.scale_sem_seg.data == plain.scale_sem_seg.data
    assert same.float().mean() > 0.99
    probabilities = [
        plain.seg_logits.data.softmax(dim=0),
        mirrored.seg_logits.data.softmax(dim=0).flip(-1),
    ]
    mean = sum(probabilities) / 2
    close(result.confidence.data, mean.amax(dim=0, keepdim=True))
    assert 'merge_preds' not in vars(runner.model)
    runner.test()
    (record, *_) = records = read_records(tmp_path)
    assert len(records) == 5
    assert len(record.pictures) == 15
    assert read_run(tmp_path)['tta'] == 'SegTTAModel'


def test_maps_with_accumulating_tta_are_of_the_first_view(
    views, make_runner, data_set, tmp_path
):
    model, (plain, mirrored) = views
    runner = make_runner(AccumulatingTTAModel(model), data_set(FLIPS))
    result = step(runner)
    for name in ('scale_weights', 'scale_attn'):
        close(result.get(name).data, plain.get(name).data)
    mean = plain.seg_logits.data + mirrored.seg_logits.data.flip(-1)
    mean = (mean / 2).softmax(dim=0).amax(dim=0, keepdim=True)
    close(result.confidence.data, mean)
    # Classes are still those of both views.
    batch = next(iter(runner.test_dataloader))
    with torch.no_grad():
        [expected] = runner.model.test_step(batch)
    assert torch.equal(result.pred_sem_seg.data, expected.pred_sem_seg.data)
    runner.test()
    assert len(read_records(tmp_path)) == 5


def test_folder_of_another_run(build_lively, make_runner, tmp_path, stock):
    model = build_lively()
    make_runner(model).test()
    first = read_records(tmp_path)
    make_runner(model).test()
    assert read_records(tmp_path) == first
    with pytest.raises(ValueError, match='pictures of another run'):
        make_runner(stock()).test()
    assert read_records(tmp_path) == first


def test_second_runner_draws_to_its_own_folder(
    build_lively, make_runner, tmp_path, stock
):
    """mmengine gives it the visualizer of the first, by the name of both."""
    folders = [tmp_path / 'first', tmp_path / 'second']
    for model, folder in zip((build_lively(), stock()), folders):
        runner = make_runner(model, save_dir=folder, name=tmp_path.name)
        # As test.py --show-dir sets it.
        runner.cfg.visualizer = dict(save_dir=str(folder))
        runner.test()
    first, second = map(read_run, folders)
    assert first['model'] != second['model']
    for folder in folders:
        assert len(read_records(folder)) == 5


def test_other_visualizer(build_lively, make_runner):
    runner = make_runner(build_lively(), visualizer='SegLocalVisualizer')
    with pytest.raises(TypeError, match='got SegLocalVisualizer'):
        runner.test()


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


def test_back_ends_get_a_limited_number(
    build_lively, make_runner, monkeypatch
):
    runner = make_runner(build_lively(), hook=dict(backend_images=2))
    names = []
    monkeypatch.setattr(
        runner.visualizer,
        '_add_to_backends',
        lambda name, *args: names.append(name),
    )
    runner.test()
    assert len(names) == 2 * 15
    assert names[0] == 'test/one/a/input'


def test_unreadable_image_is_named(monkeypatch):
    monkeypatch.setattr('mmcv.imfrombytes', lambda *args, **kwargs: None)
    hook = ScaleMapsVisualizationHook(draw=True)
    hook._read_args = None
    with pytest.raises(ValueError, match='cannot be read as an image'):
        hook._read(__file__)


@pytest.mark.parametrize(
    'option',
    [
        dict(interval=0),
        dict(interval=1.5),
        dict(val_images=True),
        dict(backend_images=-1),
    ],
)
def test_senseless_numbers(option):
    (name,) = option
    with pytest.raises(ValueError, match=f'{name} must be an integer'):
        ScaleMapsVisualizationHook(**option)
