"""What the benchmark against the zoo counts, times and evaluates."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

TOOLS = Path(__file__).parents[2] / 'tools'
TINY = Path(__file__).with_name('tiny_cityscapes.py')
# The tools are scripts, which find their modules in their own folder.
sys.path.insert(0, str(TOOLS))

from benchmarking.measure import peak_live_bytes  # noqa: E402
from benchmarking.training_steps import single_scale  # noqa: E402
from zoo_benchmark import accuracy, measuring  # noqa: E402
from zoo_benchmark.workloads import (  # noqa: E402
    build,
    counting,
    inference,
    last_view_alone,
)

OCRNET = 'ocrnet_hr48_4xb2-160k_cityscapes-512x1024'


@pytest.fixture
def ours():
    return Config.fromfile(TINY)


@pytest.fixture
def stock(ours):
    return single_scale(ours)


def conv_flops(model, run):
    """Operations of a model's convolutions and products, from shapes."""
    total = []

    def conv(module, _, output):
        taps = module.weight[0].numel()
        total.append(2 * taps * output.numel())

    hooks = [
        module.register_forward_hook(conv)
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return sum(total)


@torch.no_grad()
def test_operations_are_those_of_the_shapes(stock):
    # FCN alone: of OCR some products are no convolutions.
    stock.model.type = 'EncoderDecoder'
    del stock.model['num_stages']
    stock.model.decode_head = stock.model.decode_head[0]
    size = (32, 48)
    found = measuring.count_inference(
        stock, dict(sizes=[size], modes=['single', 'ms_flip'])
    )
    model = build(stock, 'cpu')
    for mode in ('single', 'ms_flip'):
        run = inference(model, mode, size, 'cpu')
        expected = conv_flops(model, run) / 1e9
        count = found['modes']['32x48'].pop(mode)
        assert count['gflops'] == pytest.approx(expected, rel=1e-12)
        with counting(stock):
            meta = inference(build(stock, 'meta'), mode, size, 'meta')
            assert count['live_gb'] == peak_live_bytes(meta) / 1e9
    assert found['modes'] == {'32x48': {}}
    weights = sum(p.numel() for p in model.parameters())
    assert found['parameters'] == weights


def test_last_view_alone_puts_all_back(stock):
    model = build(stock, 'meta')
    with counting(stock), last_view_alone(model, 12):
        inference(model, 'ms_flip', (32, 48), 'meta')()
    assert 'test_step' not in vars(model)


def test_one_scale_of_a_hierarchical_model(ours):
    model = build(ours, 'cpu')
    run = inference(model, 'single', (32, 48), 'cpu')
    (found,) = run()
    assert tuple(model.test_cfg.scales) == (0.5, 1.0, 2.0)
    model.test_cfg.scales = (1.0,)
    (expected,) = inference(model, 'hierarchical', (32, 48), 'cpu')()
    assert torch.equal(found.seg_logits.data, expected.seg_logits.data)


def test_sliding_inference_is_counted(ours):
    ours.model.test_cfg = dict(
        mode='slide', crop_size=(32, 32), stride=(16, 16), scales=(1.0,)
    )
    cfg = single_scale(ours)
    cfg.model.test_cfg = dict(
        mode='slide', crop_size=(32, 32), stride=(16, 16)
    )
    job = dict(sizes=[(32, 32), (32, 64)], modes=['single'])
    found = measuring.count_inference(cfg, job)['modes']
    one, three = (found[size]['single'] for size in ('32x32', '32x64'))
    assert three['gflops'] == pytest.approx(3 * one['gflops'])


def test_large_tests_are_left_out(stock):
    clock = dict(device='cpu', dtype='float32', seconds=0.01, rounds=1)
    counts = dict(
        modes={'64x64': dict(single=dict(gflops=10), ms_flip=dict(gflops=99))}
    )
    job = dict(
        clock,
        size=(32, 64),
        modes=['single', 'ms_flip'],
        max_tflop=0.03,
        counts=counts,
    )
    found = measuring.time_inference(stock, job)
    assert found['left_out'] == {'ms_flip': pytest.approx(0.0495)}
    assert found['modes'].keys() == {'single'}
    assert found['modes']['single']['cuda_gb'] is None
    assert found['modes']['single']['cpu_ms'] > 0


def test_a_way_to_test_that_fails_costs_no_other(stock, monkeypatch):
    def out_of_memory(model, data):
        raise RuntimeError('no memory is left\nand more')

    monkeypatch.setattr(
        measuring,
        'inference',
        lambda model, mode, *args: (
            (lambda: None)
            if mode == 'single'
            else (lambda: out_of_memory(model, None))
        ),
    )
    job = dict(
        device='cpu',
        dtype='float32',
        seconds=0.01,
        rounds=1,
        size=(32, 64),
        modes=['single', 'ms_flip'],
        max_tflop=None,
        counts=None,
    )
    found = measuring.time_inference(stock, job)
    assert found['failed'] == {'ms_flip': 'RuntimeError: no memory is left'}
    assert found['modes'].keys() == {'single'}


def test_weights_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    assert accuracy.find_weights(OCRNET, tmp_path) is None
    cached = 'ocrnet_hr48_512x1024_160k_cityscapes_20200602_191037-dfbf1b0c'
    cached = tmp_path / 'hub' / 'checkpoints' / f'{cached}.pth'
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert accuracy.find_weights(OCRNET, None) == cached
    assert accuracy.find_weights('other', None) is None
    named = tmp_path / f'{OCRNET}_123.pth'
    named.touch()
    assert accuracy.find_weights(OCRNET, tmp_path) == named


def test_evaluated_as_pixels_are_counted(ours, data_root, tmp_path):
    model = lively(build(ours, 'cpu'))
    weights = tmp_path / 'own.pth'
    state = model.state_dict()
    torch.save(dict(state_dict=state), weights)
    found = accuracy.evaluate(
        ours, weights, data_root, ['single', 'hierarchical_flip'], tmp_path
    )
    assert found['single'] == pytest.approx(
        miou_by_hand(model, data_root), abs=0.006
    )
    assert found['single'] > 0
    assert found['hierarchical_flip'] != found['single']
    state.popitem()
    torch.save(dict(state_dict=state), weights)
    with pytest.raises(RuntimeError, match='Missing key'):
        accuracy.evaluate(ours, weights, data_root, ['single'], tmp_path)


@torch.no_grad()
def lively(model):
    """Let a random model predict all classes."""
    classifier = model.decode_head.seg_heads[-1].conv_seg
    torch.nn.init.normal_(classifier.weight)
    logits = model.encode_decode(torch.randn(1, 3, 64, 128), [{}])
    classifier.bias -= logits.mean(dim=(0, 2, 3))
    return model


@torch.no_grad()
def miou_by_hand(model, data_root):
    from PIL import Image

    pairs = []
    for path in sorted((data_root / 'leftImg8bit/val').rglob('*.png')):
        label = data_root / 'gtFine/val' / path.parent.name / path.name
        label = label.with_name(
            path.name.replace('leftImg8bit', 'gtFine_labelTrainIds')
        )
        image = np.array(Image.open(path).convert('RGB'))[..., ::-1].copy()
        inputs = torch.from_numpy(image).permute(2, 0, 1)
        data = dict(inputs=[inputs])
        model.test_cfg.scales = (1.0,)
        batch = model.data_preprocessor(data, False)['inputs']
        logits = model.encode_decode(batch, [{}])
        pairs.append(
            (logits.argmax(1)[0].numpy(), np.array(Image.open(label)))
        )
    iou = []
    for k in range(19):
        both = sum(((a == k) & (b == k)).sum() for a, b in pairs)
        # What is predicted where nothing is labelled does not count.
        either = sum(
            (((a == k) & (b != 255)) | (b == k)).sum() for a, b in pairs
        )
        iou += [100 * both / either] if either else []
    return np.mean(iou)
