"""Averages of several views of an image."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from hmsa_mmseg.analysis.live_bytes import peak_live_bytes
from hmsa_mmseg.models import AccumulatingTTAModel

FLIPS = (None, 'horizontal', 'vertical')
BINARY = dict(
    type='FCNHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_convs=1,
    num_classes=2,
    out_channels=1,
    threshold=0.45,
    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
)


def make_views(
    num_images=2, size=(40, 56), ratios=(0.5, 1.0, 1.3), flips=FLIPS, seed=0
):
    """What mmcv's TestTimeAug and the default collation give."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0, 256, (num_images, 3, *size), generator=generator
    ).float()
    label = torch.zeros(1, *size, dtype=torch.long)
    inputs, data_samples = [], []
    for ratio in ratios:
        shape = tuple(int(side * ratio) for side in size)
        view = torch.nn.functional.interpolate(images, shape)
        for flip in flips:
            dims = dict(horizontal=(3,), vertical=(2,)).get(flip, ())
            inputs.append(list(view.flip(dims)))
            data_samples.append(
                [
                    SegDataSample(
                        gt_sem_seg=PixelData(data=label),
                        metainfo=dict(
                            ori_shape=size,
                            img_shape=shape,
                            img_path=f'{i}.png',
                            flip=flip is not None,
                            flip_direction=flip,
                        ),
                    )
                    for i in range(num_images)
                ]
            )
    return dict(inputs=inputs, data_samples=data_samples)


def step(model, data):
    with torch.no_grad():
        return model.test_step(copy.deepcopy(data))


def classes(results):
    return torch.stack(
        [result.pred_sem_seg.data.reshape(40, 56) for result in results]
    )


def mean_of_logits(module, data):
    """The definition, view by view and image by image."""
    total = 0
    for inputs, samples in zip(data['inputs'], data['data_samples']):
        batch = module.data_preprocessor(
            dict(inputs=inputs, data_samples=copy.deepcopy(samples))
        )
        with torch.no_grad():
            logits = module.encode_decode(batch['inputs'])
        pad = batch['data_samples'][0].img_padding_size
        logits = logits[
            ..., : logits.shape[2] - pad[3], : logits.shape[3] - pad[1]
        ]
        dims = dict(horizontal=(3,), vertical=(2,))
        logits = logits.flip(dims.get(samples[0].flip_direction, ()))
        total = total + torch.nn.functional.interpolate(
            logits, (40, 56), mode='bilinear'
        )
    return total / len(data['inputs'])


@pytest.fixture(params=[1, 16], ids=['as it is', 'padded'])
def build(request, build_lively, tiny_model_cfg):
    """Return a function that builds a model, with and without padding."""
    preprocessor = tiny_model_cfg()['data_preprocessor']
    preprocessor['test_cfg'] = dict(size_divisor=request.param)

    def build(**kwargs):
        return build_lively(data_preprocessor=preprocessor, **kwargs)

    return build


@pytest.mark.parametrize('batch_pixels', [0, 2 * 2 * 40 * 56, 10**9])
def test_softmax_equals_mmsegs(batch_pixels, build):
    module = build()
    data = make_views()
    ours = AccumulatingTTAModel(
        module, average='softmax', batch_pixels=batch_pixels
    )
    expected = classes(step(SegTTAModel(module), data))
    found = classes(step(ours, data))
    assert len(expected.unique()) > 1
    assert found.dtype == expected.dtype
    # Batches round differently where two classes are about equal.
    assert (found == expected).float().mean() > 0.999


@pytest.mark.parametrize('batch_pixels', [0, 10**9])
def test_logits_are_averaged_as_the_authors_do(batch_pixels, build):
    module = build()
    data = make_views()
    model = AccumulatingTTAModel(module, batch_pixels=batch_pixels)
    found = step(model, data)
    expected = mean_of_logits(module, data).argmax(dim=1)
    assert (classes(found) == expected).float().mean() > 0.999
    softmax = AccumulatingTTAModel(module, average='softmax')
    assert (classes(step(softmax, data)) != expected).any()


@pytest.mark.parametrize('average', ['logits', 'softmax'])
def test_binary(average, build):
    module = build(seg_head=BINARY)
    data = make_views(flips=(None, 'horizontal'), ratios=(1.0,))
    found = step(AccumulatingTTAModel(module, average=average), data)
    if average == 'logits':
        expected = mean_of_logits(module, data).sigmoid()
    else:
        expected = 0
        for view in range(2):
            one = {key: value[view : view + 1] for key, value in data.items()}
            expected += mean_of_logits(module, one).sigmoid() / 2
    expected = (expected > 0.45).float()[:, 0]
    assert found[0].pred_sem_seg.data.dtype == torch.float32
    assert (classes(found) == expected).float().mean() > 0.999
    assert len(expected.unique()) == 2


def test_results(build_lively):
    module = build_lively()
    results = step(AccumulatingTTAModel(module), make_views())
    assert [result.img_path for result in results] == ['0.png', '1.png']
    for result in results:
        # The leading 1 that CityscapesMetric reads; SegTTAModel drops it.
        assert result.pred_sem_seg.shape == (40, 56)
        assert result.pred_sem_seg.data.shape == (1, 40, 56)
        assert result.gt_sem_seg.data.shape == (1, 40, 56)
        assert 'seg_logits' not in result


def test_segmentors_of_mmseg(tiny_model_cfg):
    cfg = tiny_model_cfg()
    fcn = dict(cfg['decode_head']['seg_head'])
    ocr = dict(fcn, type='OCRHead', ocr_channels=4)
    ocr.pop('num_convs')
    module = MODELS.build(
        ConfigDict(
            type='CascadeEncoderDecoder',
            num_stages=2,
            data_preprocessor=cfg['data_preprocessor'],
            backbone=cfg['backbone'],
            decode_head=[fcn, ocr],
            test_cfg=dict(mode='whole'),
        )
    ).eval()
    torch.nn.init.normal_(module.decode_head[-1].conv_seg.weight)
    data = make_views()
    found, expected = (
        classes(step(model, data))
        for model in (
            AccumulatingTTAModel(module, average='softmax'),
            SegTTAModel(module),
        )
    )
    assert (found == expected).float().mean() > 0.999


def test_views_of_one_shape_share_a_batch(build_lively):
    module = build_lively()
    batches = []
    run = module.predict_rows
    module.predict_rows = lambda x: batches.append(tuple(x.shape)) or run(x)
    data = make_views(num_images=1, ratios=(0.5, 1.0))
    for batch_pixels, expected in (
        (0, [(1, 3, 20, 28)] * 3 + [(1, 3, 40, 56)] * 3),
        (3 * 20 * 28, [(3, 3, 20, 28)] + [(1, 3, 40, 56)] * 3),
        (2 * 40 * 56, [(3, 3, 20, 28), (2, 3, 40, 56), (1, 3, 40, 56)]),
    ):
        batches.clear()
        step(AccumulatingTTAModel(module, batch_pixels=batch_pixels), data)
        assert batches == expected


def test_classes_only_and_dtype_of_the_segmentor(build_lively):
    module = build_lively()
    data = make_views()
    expected = classes(step(AccumulatingTTAModel(module), data))
    module.test_cfg = ConfigDict(
        mode='whole',
        scales=(0.5, 1.0, 2.0),
        classes_only=True,
        dtype='bfloat16',
    )
    found = classes(step(AccumulatingTTAModel(module), data))
    assert (found == expected).float().mean() > 0.9


@pytest.mark.needs_torch('freed_storages')
def test_memory_does_not_grow_with_the_number_of_views(build_lively):
    many = dict(BINARY, num_classes=60, out_channels=60)
    many.pop('loss_decode')
    module = build_lively(
        seg_head=many, test_cfg=dict(mode='whole', scales=(0.5, 1.0))
    )
    size = (128, 192)
    data = [
        make_views(num_images=1, size=size, ratios=ratios, flips=FLIPS[:2])
        for ratios in ((1.0,), (1.0, 1.0, 1.0))
    ]
    models = (
        AccumulatingTTAModel(module, batch_pixels=0),
        SegTTAModel(module),
    )
    ours, mmsegs = (
        [peak_live_bytes(lambda m=model, d=d: step(m, d)) for d in data]
        for model in models
    )
    view = 60 * 128 * 192 * 4
    # Copies of the images and labels of four views; their logits too.
    assert ours[1] - ours[0] < 0.5 * view
    assert mmsegs[1] - mmsegs[0] > 3.9 * view
    assert ours[1] < 0.6 * mmsegs[1]


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(average='probs'), r"average must be .*'softmax'.* got 'probs'"),
        (dict(batch_pixels=-1), r'batch_pixels must be .* got -1'),
        (dict(batch_pixels=1e6), r'batch_pixels must be .* got 1000000\.0'),
    ],
)
def test_bad_arguments(kwargs, message, tiny_model_cfg):
    cfg = dict(type='AccumulatingTTAModel', module=tiny_model_cfg(), **kwargs)
    with pytest.raises(ValueError, match=r'tta_model\.' + message):
        MODELS.build(ConfigDict(cfg))


def test_other_modules_are_refused():
    class Other(torch.nn.Module):
        def test_step(self, data):
            return data

    with pytest.raises(TypeError, match=r'an EncoderDecoder .*; got Other'):
        AccumulatingTTAModel(Other())
