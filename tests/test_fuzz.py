"""Inputs that nobody has thought of: a result, or an error that says why.

`make check` tries some dozens of each, `make nightly` thousands
(``HYPOTHESIS_PROFILE=nightly``). What fails is printed, with how to repeat it.
"""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from hmsa_mmseg.datasets import LoadSegLabels
from hmsa_mmseg.utils import safe_load
from hmsa_mmseg.zoo.nvidia import convert_file

COMMON = dict(
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
settings.register_profile('quick', max_examples=30, **COMMON)
settings.register_profile('default', max_examples=300, **COMMON)
settings.register_profile('nightly', max_examples=3000, **COMMON)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'default'))

ROOT = Path(__file__).parents[1]
CONFIG = ROOT.joinpath(
    'configs/hmsa',
    'hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py',
)


def unless_refused(function, *named):
    """Call a function; None if it refuses with one of these in the reason."""
    try:
        return function()
    except ValueError as error:
        said = str(error)
    assert any(name in said for name in named), said
    return None


scale_lists = st.lists(
    st.sampled_from([0.1, 0.25, 0.33, 0.5, 0.75, 1.0, 1.3, 2.0]),
    min_size=1,
    max_size=4,
    unique=True,
)


@given(
    scales=scale_lists,
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    batch=st.integers(1, 2),
    num_classes=st.integers(2, 7),
    classes_only=st.booleans(),
)
@pytest.mark.fault(
    'images of 1 to 50 pixels a side at any scales',
    'a class for each pixel',
)
def test_any_image_has_a_class_for_each_pixel(
    tiny_model_cfg, scales, size, batch, num_classes, classes_only
):
    cfg = tiny_model_cfg(
        test_cfg=dict(mode='whole', scales=scales, classes_only=classes_only)
    )
    cfg['decode_head']['seg_head']['num_classes'] = num_classes
    model = MODELS.build(ConfigDict(cfg)).eval()
    shape = dict(ori_shape=size, img_shape=size, pad_shape=size)
    samples = [SegDataSample(metainfo=shape) for _ in range(batch)]
    with torch.no_grad():
        results = model.predict(torch.rand(batch, 3, *size), samples)
    for result in results:
        classes = result.pred_sem_seg.data
        assert classes.shape == (1, *size)
        assert classes.min() >= 0
        assert classes.max() < num_classes


@given(
    values=st.lists(st.integers(0, 300), min_size=4, max_size=4),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    num_classes=st.integers(1, 254),
    label_map=st.none()
    | st.dictionaries(st.integers(0, 255), st.integers(0, 255), max_size=3),
    unknown=st.sampled_from(['error', 'ignore']),
)
@pytest.mark.fault(
    'any values in a label of 8 or 16 bits',
    'classes or 255, or refused with the path',
)
def test_any_label_is_of_classes_or_refused(
    tmp_path, values, dtype, num_classes, label_map, unknown
):
    path = str(tmp_path / 'label.png')
    stored = np.array(values).astype(dtype).reshape(2, 2)
    cv2.imwrite(path, stored)
    load = unless_refused(
        lambda: LoadSegLabels(num_classes, label_map, unknown), 'label_map'
    )
    loaded = load and unless_refused(
        lambda: load(dict(seg_map_path=path)), path
    )
    if not loaded:
        return
    found = loaded['gt_seg_map']
    assert found.shape == (2, 2)
    assert ((found < num_classes) | (found == 255)).all()
    if label_map is None and unknown == 'error':
        assert (found == stored).all()


mistakes = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.integers(-1, 2), st.floats(), st.text(max_size=2))),
    st.dictionaries(st.sampled_from(['scales', 'mode', 'x']), st.integers()),
)
SETTINGS = {
    'train_cfg': ['scales', 'checkpoint', 'attention_only', 'norm_eval', 'x'],
    'test_cfg': ['scales', 'mode', 'crop_size', 'stride', 'dtype', 'y'],
}
SETTING = st.sampled_from(
    [(cfg, key) for cfg, keys in SETTINGS.items() for key in keys]
)


@given(
    setting=SETTING, value=mistakes, mode=st.sampled_from(['whole', 'slide'])
)
@pytest.mark.fault(
    'any value of a setting of train_cfg or test_cfg',
    'it works or the error has its name',
)
def test_any_setting_works_or_is_named(tiny_model_cfg, setting, value, mode):
    part, key = setting
    windows = dict(crop_size=(32, 32), stride=(16, 16))
    cfg = tiny_model_cfg(
        test_cfg=dict(mode=mode, scales=(0.5, 1.0), **windows)
    )
    cfg[part][key] = value
    model = unless_refused(lambda: MODELS.build(ConfigDict(cfg)), key, part)
    if model is None:
        return
    with torch.no_grad():
        (result,) = model.eval().predict(torch.rand(1, 3, 40, 40))
    assert result.seg_logits.data.isfinite().all()


@pytest.fixture(scope='module')
def saved():
    content = io.BytesIO()
    state = dict(a=torch.arange(6.0), meta=dict(iter=3, name='x'))
    torch.save(state, content)
    return content.getvalue()


@given(data=st.data())
@pytest.mark.fault(
    'any byte of a checkpoint is changed, or it is cut anywhere',
    'refused, or read as it was',
)
def test_any_damaged_file_is_refused(saved, tmp_path, data):
    """Or nothing of what it holds has changed."""
    content = bytearray(saved)
    if data.draw(st.booleans(), 'cut'):
        del content[data.draw(st.integers(0, len(content) - 1), 'length') :]
    else:
        at = data.draw(st.integers(0, len(content) - 1), 'at')
        content[at] ^= data.draw(st.integers(1, 255), 'bits')
    path = tmp_path / 'damaged.pth'
    path.write_bytes(content)
    found = unless_refused(lambda: safe_load(path), str(path))
    if found is None:
        return
    assert found['a'].tolist() == [0, 1, 2, 3, 4, 5]
    assert found['meta'] == dict(iter=3, name='x')


@given(
    value=st.recursive(
        st.one_of(
            st.none(),
            st.integers(),
            st.text(max_size=5),
            st.just(torch.zeros(2, 2)),
        ),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(['state_dict', 'backbone.conv1.weight', 'x']),
                inner,
                max_size=3,
            )
        ),
        max_leaves=6,
    )
)
@pytest.mark.fault(
    'any content in a file for the converter',
    'refused with its path; nothing is written',
)
def test_any_file_is_converted_or_refused(tmp_path, value):
    path, out = tmp_path / 'theirs.pth', tmp_path / 'ours.pth'
    torch.save(value, path)
    with pytest.raises(ValueError, match='theirs'):
        convert_file(str(path), str(out), CONFIG)
    assert not out.exists()
