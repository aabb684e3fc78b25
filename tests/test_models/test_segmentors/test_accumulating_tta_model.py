"""Averages of several views of an image."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS
from oracles.live_bytes import peak_live_bytes
from test_models.cases import (
    BINARY,
    FCN,
    build_head,
    cascade,
    predict_all_classes,
    sample,
    with_cfg,
)

from hmsa_mmseg.models import AccumulatingTTAModel

SIZE = (40, 56)
FLIPS = (None, 'horizontal', 'vertical')


def make_views(
    num_images=2, size=SIZE, ratios=(0.5, 1.0, 1.3), flips=FLIPS, file=None
):
    """What mmcv's TestTimeAug and the default collation give."""
    generator = torch.Generator().manual_seed(0)
    shape = num_images, 3, *size
    images = torch.randint(0, 256, shape, generator=generator).float()
    file = file or size
    label = PixelData(data=torch.zeros(1, *file, dtype=torch.long))
    inputs, data_samples = [], []
    for ratio in ratios:
        shape = tuple(int(side * ratio) for side in size)
        view = F.interpolate(images, shape)
        for flip in flips:
            dims = dict(horizontal=(3,), vertical=(2,)).get(flip, ())
            inputs.append(list(view.flip(dims)))
            samples = [
                sample(
                    file,
                    img_shape=shape,
                    img_path=f'{i}.png',
                    flip=flip is not None,
                    flip_direction=flip,
                )
                for i in range(num_images)
            ]
            for one in samples:
                one.gt_sem_seg = label
            data_samples.append(samples)
    return dict(inputs=inputs, data_samples=data_samples)


def step(model, data):
    with torch.no_grad():
        return model.test_step(copy.deepcopy(data))


def classes(results):
    return torch.stack(
        [result.pred_sem_seg.data.reshape(SIZE) for result in results]
    )


def mean_of_views(module, data, average):
    """The definition: every view restored as a whole, by mmseg."""
    total = 0
    for inputs, samples in zip(data['inputs'], data['data_samples']):
        batch = module.data_preprocessor(
            dict(inputs=inputs, data_samples=copy.deepcopy(samples))
        )
        with torch.no_grad():
            results = EncoderDecoder.postprocess_result(
                module,
                module.encode_decode(batch['inputs']),
                batch['data_samples'],
            )
        logits = torch.stack([one.seg_logits.data for one in results])
        if logits.shape[1] == 1:
            # mmseg gives probabilities.
            logits = logits.logit() if average == 'logits' else logits
        elif average == 'softmax':
            logits = logits.softmax(dim=1)
        total = total + logits
    return total / len(data['inputs'])


@pytest.fixture(params=[1, 16], ids=['as it is', 'padded'])
def build(request, build_lively, tiny_model_cfg):
    """Return a function that builds a model, with and without padding."""
    preprocessor = tiny_model_cfg()['data_preprocessor']
    preprocessor['test_cfg'] = dict(size_divisor=request.param)

    def build(**kwargs):
        return build_lively(data_preprocessor=preprocessor, **kwargs)

    return build


@pytest.mark.parametrize('average', ['logits', 'softmax'])
@pytest.mark.parametrize('file', [(77, 121), (23, 41)])
def test_mean_is_that_of_whole_views(file, average, build):
    """Flips alone, and views of a second size; up, and down to less."""
    module = with_cfg(build(), confidence=True)
    for ratios, batch_pixels in (((1.0,), 0), ((1.0, 0.5), 10**9)):
        views = make_views(1, (45, 70), ratios, file=file)
        expected = mean_of_views(module, views, average)[0]
        model = AccumulatingTTAModel(module, average, batch_pixels)
        [found] = step(model, views)
        probability = expected
        if average == 'logits':
            probability = expected.double().softmax(dim=0)
        torch.testing.assert_close(
            found.confidence.data,
            probability.amax(dim=0, keepdim=True).float(),
            rtol=0,
            atol=2e-5,
        )
        best = expected.topk(2, dim=0).values
        wrong = found.pred_sem_seg.data[0] != expected.argmax(dim=0)
        assert wrong.float().mean() < 0.01
        assert not wrong[(best[0] - best[1]) > 1e-4].any()


@pytest.mark.parametrize('average', ['logits', 'softmax'])
def test_binary(average, build):
    module = build(seg_head=BINARY)
    data = make_views(flips=(None, 'horizontal'), ratios=(1.0,))
    view = {key: copy.deepcopy(views[0]) for key, views in data.items()}
    predict_all_classes(module, module.data_preprocessor(view)['inputs'])
    found = step(AccumulatingTTAModel(module, average), data)
    expected = mean_of_views(module, data, average)
    expected = expected.sigmoid() if average == 'logits' else expected
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
        assert result.pred_sem_seg.shape == SIZE
        assert result.pred_sem_seg.data.shape == (1, *SIZE)
        assert result.gt_sem_seg.data.shape == (1, *SIZE)
        assert 'seg_logits' not in result
    with_cfg(module, classes_only=True, dtype='bfloat16')
    lean = step(AccumulatingTTAModel(module), make_views())
    assert (classes(lean) == classes(results)).float().mean() > 0.9


def test_confidence_is_asked_for(build_lively):
    module = with_cfg(build_lively())
    for of_model, of_module, expected in (
        (None, False, False),
        (None, True, True),
        (False, True, False),
        (True, False, True),
    ):
        with_cfg(module, confidence=of_module)
        model = AccumulatingTTAModel(module, confidence=of_model)
        [found] = step(model, make_views(1, ratios=(1.0,)))
        assert ('confidence' in found) == expected


def test_segmentors_of_mmseg(tiny_model_cfg):
    cfg = tiny_model_cfg()
    module = MODELS.build(
        ConfigDict(
            type='CascadeEncoderDecoder',
            num_stages=2,
            data_preprocessor=cfg['data_preprocessor'],
            backbone=cfg['backbone'],
            decode_head=cascade(),
            test_cfg=dict(mode='whole'),
        )
    ).eval()
    torch.nn.init.normal_(module.decode_head[-1].conv_seg.weight)
    data = make_views()
    found = classes(step(AccumulatingTTAModel(module, 'softmax'), data))
    expected = classes(step(SegTTAModel(module), data))
    assert found.dtype == expected.dtype
    # Batches round differently where two classes are about equal.
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


@pytest.mark.needs_torch('freed_storages')
def test_memory(tiny_model_cfg):
    """It does not grow with the number of views, nor with the file."""
    module = build_head(tiny_model_cfg, seg_head=dict(FCN, num_classes=100))
    with_cfg(module, scales=(0.5, 1.0))

    def peaks(model, **kwargs):
        found = []
        for ratios in ((1.0,), (1.0, 1.0, 1.0)):
            views = make_views(1, (128, 192), ratios, FLIPS[:2], **kwargs)
            found.append(peak_live_bytes(lambda v=views: step(model, v)))
        return found

    ours, mmsegs = (
        peaks(model)
        for model in (
            AccumulatingTTAModel(module, batch_pixels=0),
            SegTTAModel(module),
        )
    )
    view = 100 * 128 * 192 * 4
    # Copies of the images and labels of four views; their logits too.
    assert ours[1] - ours[0] < 0.5 * view
    assert mmsegs[1] - mmsegs[0] > 3.9 * view
    assert ours[1] < 0.6 * mmsegs[1]

    views = make_views(1, (64, 96), (1.0,), FLIPS[:2], file=(320, 480))
    ours, at_file = (
        peak_live_bytes(
            lambda a=average: step(
                AccumulatingTTAModel(module, a, confidence=True), views
            )
        )
        for average in ('logits', 'softmax')
    )
    logits = 100 * 4 * 320 * 480
    assert at_file > logits
    assert ours < 0.3 * logits


class Other(torch.nn.Module):
    def test_step(self, data):
        return data


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(average='probs'), r"average must be .*'softmax'.* got 'probs'"),
        (dict(batch_pixels=-1), r'batch_pixels must be .* got -1'),
        (dict(batch_pixels=1e6), r'batch_pixels must be .* got 1000000\.0'),
        (dict(confidence=1), r'confidence .* got 1'),
        (dict(module=Other()), r'an EncoderDecoder .*; got Other'),
    ],
)
def test_bad_arguments(kwargs, message, tiny_model_cfg):
    cfg = dict(type='AccumulatingTTAModel', module=tiny_model_cfg())
    with pytest.raises((TypeError, ValueError), match=f'tta_model.*{message}'):
        MODELS.build(ConfigDict({**cfg, **kwargs}))
