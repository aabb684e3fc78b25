"""The visualizer with mmengine's back ends, and in mmseg's interfaces."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.apis import MMSegInferencer, show_result_pyplot
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.utils import get_palette
from mmseg.visualization import SegLocalVisualizer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from hmsa_mmseg.visualization import (
    ScaleMapsVisualizer,
    draw_pictures,
    make_record,
    read_records,
)

from .conftest import CLASSES, PALETTE, SIZE

TINY_CITYSCAPES = (
    Path(__file__).parents[1] / 'test_tools' / 'tiny_cityscapes.py'
)
META = dict(classes=CLASSES, palette=PALETTE)
COLOURS = np.array(PALETTE, float)


@pytest.fixture
def build(tmp_path, request):
    """Return a function that builds a visualizer with some back ends."""

    def make(*backends, **kwargs):
        return VISUALIZERS.build(
            dict(
                type='ScaleMapsVisualizer',
                name=f'{request.node.name}_{tmp_path.name}',
                vis_backends=[dict(type=name) for name in backends],
                save_dir=str(tmp_path),
                **kwargs,
            )
        )

    return make


@pytest.fixture
def add(tmp_path, image, make_sample):
    def add(visualizer, name='city/photo.png', **kwargs):
        return visualizer.add_scale_maps(
            name, image, make_sample(), META, root=tmp_path, **kwargs
        )

    return add


def test_files_and_record(build, add, tmp_path, make_sample, monkeypatch):
    """Of any process; only the first one gives pictures to back ends."""
    taken = []
    visualizer = build('LocalVisBackend', 'TensorboardVisBackend')
    assert isinstance(visualizer, SegLocalVisualizer)
    backend = visualizer._vis_backends['TensorboardVisBackend']
    monkeypatch.setattr(backend, 'add_image', lambda *a: taken.append(a))
    record = add(visualizer)
    assert len(taken) == len(record.pictures)
    assert read_records(tmp_path) == [record]
    assert record == make_record(
        'city/photo.png', make_sample(), CLASSES, PALETTE, record.pictures
    )
    # No second copy of them.
    pictures = {tmp_path / path for path in record.pictures.values()}
    found = {*tmp_path.rglob('*.jpg'), *tmp_path.rglob('*.png')}
    assert found == pictures
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group: 1)
    add(visualizer)
    assert len(taken) == len(pictures)


def test_tensorboard(build, add, tmp_path, image, make_sample):
    visualizer = build('TensorboardVisBackend')
    add(visualizer, tag='val', step=4)
    add(visualizer, 'b.png', tag='val', step=4, to_backends=False)
    add(visualizer, tag='val', step=8)
    visualizer.close()
    (file,) = tmp_path.rglob('events.out.tfevents*')
    events = EventAccumulator(str(file), size_guidance=dict(images=0))
    tags = events.Reload().Tags()['images']
    keys = draw_pictures(image, make_sample(), CLASSES, PALETTE)
    assert tags == [f'val/city/photo/{key}' for key in keys]
    shown = events.Images('val/city/photo/prediction')
    assert [one.step for one in shown] == [4, 8]
    assert (shown[0].height, shown[0].width) == SIZE


def test_overlays_in_the_place_of_mmsegs_visualizer(
    build, image, make_sample, tmp_path
):
    """MMSegInferencer sets `alpha` and `dataset_meta`, and gives views."""
    visualizer = build()
    visualizer.set_dataset_meta(**META)
    visualizer.alpha = 0.8
    sample = make_sample()
    options = dict(with_labels=False)
    turned = image[..., ::-1]
    visualizer.add_datasample('a', turned, sample, **options)
    both = visualizer.get_image()
    label = sample.gt_sem_seg.data[0].numpy()
    for half, classes in (
        (both[:, : SIZE[1]], label),
        (both[:, SIZE[1] :], sample.pred_sem_seg.data[0].numpy()),
    ):
        colours = COLOURS[np.where(classes == 255, 0, classes)]
        expected = 0.2 * turned + 0.8 * colours
        # What is ignored stays as it is.
        expected[classes == 255] = turned[classes == 255]
        assert np.abs(half - expected).max() <= 0.5
    visualizer.add_datasample('a', turned, sample, draw_gt=False, **options)
    np.testing.assert_array_equal(visualizer.get_image(), both[:, SIZE[1] :])
    file = tmp_path / 'drawn.png'
    visualizer.add_datasample('a', turned, sample, out_file=str(file))
    assert file.stat().st_size > 0
    visualizer.add_datasample('a', turned)
    np.testing.assert_array_equal(visualizer.get_image(), turned)


def test_inferencer_and_pyplot_of_mmseg(tmp_path):
    """On a shipped config but for its size, with random weights."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
    inferencer = MMSegInferencer(str(TINY_CITYSCAPES), device='cpu')
    assert isinstance(inferencer.visualizer, ScaleMapsVisualizer)
    results = inferencer(pixels, return_vis=True)
    colours = np.array(get_palette('cityscapes'))[results['predictions']]
    expected = 0.2 * pixels + 0.8 * colours
    # But for the labels.
    same = np.abs(results['visualization'] - expected).max(axis=-1) <= 0.5
    assert same.mean() > 0.5
    file = tmp_path / 'photo.png'
    Image.fromarray(pixels).save(file)
    sample = inferencer([pixels], return_datasamples=True)
    drawn = show_result_pyplot(
        inferencer.model, str(file), sample, show=False, save_dir=str(tmp_path)
    )
    assert drawn.shape == pixels.shape


def test_classes_and_colours_of_the_config(build, image, tmp_path):
    """mmseg's constructor swaps them; classes may be floats of any kind."""
    sample = SegDataSample()
    data = torch.ones(1, *SIZE, dtype=torch.bfloat16)
    sample.set_data(dict(pred_sem_seg=PixelData(data=data)))
    visualizer = build(classes=CLASSES, palette=PALETTE, alpha=1.0)
    path = tmp_path / 'drawn.png'
    visualizer.add_datasample(
        'a', image, sample, out_file=str(path), with_labels=False
    )
    assert (np.array(Image.open(path)) == PALETTE[1]).all()
    # Depth maps are refused.
    sample = SegDataSample(pred_depth_map=PixelData(data=torch.zeros(1, 2, 2)))
    with pytest.raises(TypeError, match=r"type='SegLocalVisualizer'"):
        visualizer.add_datasample('a', image, sample)
