"""The benchmark against the zoo: counts, limits, resuming, page, plot."""

import json
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

TOOLS = Path(__file__).parents[2] / 'tools'
TINY = Path(__file__).with_name('tiny_cityscapes.py')
# The tools are scripts, which find their modules in their own folder.
sys.path.insert(0, str(TOOLS))

import benchmark_zoo  # noqa: E402
from benchmarking.measure import peak_live_bytes  # noqa: E402
from benchmarking.training_steps import single_scale  # noqa: E402
from demo.methods import class_iou  # noqa: E402
from zoo_benchmark import accuracy, measuring, supervision  # noqa: E402
from zoo_benchmark.jobs import Findings  # noqa: E402
from zoo_benchmark.labels import place_labels  # noqa: E402
from zoo_benchmark.models import DEFAULT, find_model  # noqa: E402
from zoo_benchmark.plot import draw  # noqa: E402
from zoo_benchmark.report import page  # noqa: E402
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


@pytest.fixture
def three_models(tmp_path, ours, stock):
    """A model of mmseg, one of ours, and one that cannot be built."""
    paths = [tmp_path / f'{name}.py' for name in ('stock', 'own', 'wrong')]
    stock.dump(paths[0])
    ours.dump(paths[1])
    ours.model.decode_head.seg_head[1].type = 'NoSuchHead'
    ours.dump(paths[2])
    return paths


def test_broken_off_and_resumed(three_models, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    argv = [
        *map(str, three_models),
        *('--device', 'cpu', '--size', 'small', '--out', str(out)),
        *('--work-dir', str(tmp_path / 'work'), '--threads', '1'),
        *('--seconds', '0.01', '--rounds', '1'),
    ]
    begun = []

    def broken_off(say, job):
        begun.append((job['model'], job['title']))
        if job['model'] == 'own':
            raise KeyboardInterrupt

    monkeypatch.setattr(benchmark_zoo.Progress, '__call__', broken_off)
    assert benchmark_zoo.main(argv) == 130
    assert 'goes on from there' in capsys.readouterr().err
    assert not out.exists()
    assert {model for model, _ in begun} == {'stock', 'own'}
    files = sorted((tmp_path / 'work' / 'findings').glob('*.json'))
    done = {path: path.read_text() for path in files}
    assert len(done) == 5  # two counts, training, inference at two sizes

    begun.clear()
    monkeypatch.undo()
    right = benchmark_zoo.Progress.__call__

    def listened(say, job):
        begun.append((job['model'], job['title']))
        right(say, job)

    monkeypatch.setattr(benchmark_zoo.Progress, '__call__', listened)
    assert benchmark_zoo.main(argv) == 0
    # What was measured is as it was, and was not measured again.
    assert {model for model, _ in begun} == {'own', 'wrong'}
    assert {path: path.read_text() for path in done} == done

    results = json.loads((out / 'cpu.json').read_text())
    rows = {row['name']: row for row in results['models']}
    assert list(rows) == ['stock', 'own', 'wrong']
    assert all('measured' in f for f in rows['stock']['findings'])
    assert all('measured' in f for f in rows['own']['findings'])
    errors = [f['error'] for f in rows['wrong']['findings']]
    assert len(errors) == 5
    assert all('NoSuchHead' in error for error in errors)
    text = (out / 'cpu.md').read_text()
    assert '| wrong | failed |' in text
    assert '| own | hierarchical |' in text
    assert '| stock | 6 scales x flip |' in text
    assert (out / 'cpu.png').read_bytes()[:4] == b'\x89PNG'
    check_tables(text)


def check_tables(text):
    """Every row of every table has as many cells as its head."""
    width = None
    for line in text.splitlines():
        if not line.startswith('|'):
            width = None
            continue
        width = width or line.count('|')
        assert line.count('|') == width, line


@pytest.fixture
def order(tmp_path):
    """Return a function that runs three jobs in processes of a script."""
    findings = Findings(tmp_path / 'findings')
    jobs = [dict(key=key, model='m', part='p', title=key) for key in 'abc']

    def run(monkeypatch, script, timeout=60):
        worker = (sys.executable, '-S', '-c', script)
        monkeypatch.setattr(supervision, '_WORKER', worker)
        limits = supervision.Limits(timeout, None, None, 'cpu')
        supervision.run_jobs(jobs, None, findings, limits, lambda job: None)
        return [findings.read(job) for job in jobs]

    return run


WORKER = """
import json, os, signal, sys, time
order = json.load(open(sys.argv[1]))
for job in order['jobs']:
    if job['key'] == 'b':
        {fault}
    path = order['folder'] + '/' + job['key'] + '.json'
    open(path + '.part', 'w').write(json.dumps(dict(measured=1)))
    os.replace(path + '.part', path)
"""


@pytest.mark.parametrize(
    ('fault', 'timeout', 'error'),
    [
        ('os.kill(os.getpid(), signal.SIGKILL)', 60, 'SIGKILL.*memory'),
        ('sys.exit(3)', 60, 'code 3'),
        ('time.sleep(60)', 3, r'after 3 s \(--timeout\)'),
    ],
)
def test_a_process_that_dies_costs_one_job(
    order, monkeypatch, fault, timeout, error
):
    first, second, third = order(
        monkeypatch, WORKER.format(fault=fault), timeout
    )
    assert first['measured'] == third['measured'] == 1
    assert re.search(error, second['error'])


def test_memory_of_a_process_is_limited():
    script = (
        'from zoo_benchmark.limits import limit_memory; import numpy\n'
        'limit_memory(2)\n'
        'try: numpy.ones(10**9)\n'
        "except MemoryError as error: print('refused', error)"
    )
    pytest.importorskip('resource')
    if sys.platform != 'linux':
        pytest.skip('only Linux limits private memory')
    done = subprocess.run(
        [sys.executable, '-c', script],
        env=dict(os.environ, PYTHONPATH=str(TOOLS)),
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith('refused')


def test_damaged_finding_is_named(tmp_path):
    findings = Findings(tmp_path)
    (tmp_path / 'a.json').write_text('{"measured": ')
    with pytest.raises(ValueError, match=r'a\.json is damaged.*--fresh'):
        findings.read(dict(key='a'))


def test_counts_of_an_earlier_page_are_taken_over(tmp_path):
    """They do not depend on the machine."""
    args = benchmark_zoo.parse_args([OCRNET, '--device', 'cpu'])
    (model,) = args.models
    here, there = (
        {
            job['title']: job['key']
            for job in benchmark_zoo.plan(model, args, m)
        }
        for m in (dict(cpu='one', load=1), dict(cpu='other', load=1))
    )
    same = {title for title in here if here[title] == there[title]}
    assert same == {'inference counts', 'training counts'}
    found = dict(key=here['training counts'], measured=dict(gflops=1))
    earlier = dict(models=[dict(findings=[found])])
    (tmp_path / 'cpu.json').write_text(json.dumps(earlier))
    findings = Findings(tmp_path / 'findings')
    jobs = benchmark_zoo.plan(model, args, dict(cpu='other'))
    benchmark_zoo.take_over_counts(tmp_path, jobs, findings)
    done = [job['title'] for job in jobs if findings.is_measured(job)]
    assert done == ['training counts']


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--size', 'small'], 'needs --out'),
        (
            ['--size', 'small', '--out', str(TOOLS.parent / 'docs/zoo')],
            'is for full sizes',
        ),
        (['no_such_config'], 'neither a file nor a config'),
        ([OCRNET, OCRNET], 'two configs of one name'),
        (['--dtypes', 'amp', '--device', 'cpu'], 'needs --device cuda'),
        (['--seconds', '0'], 'expected more than 0, got 0'),
        (['--data-root', 'no/such'], 'no such folder'),
    ],
)
def test_refuses(argv, message, capsys):
    with pytest.raises(SystemExit):
        benchmark_zoo.parse_args(argv)
    assert message in capsys.readouterr().err


def test_default_models_are_there():
    found = [find_model(name) for name in DEFAULT]
    assert [model.name for model in found] == list(DEFAULT)


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
    return np.nanmean(class_iou(pairs, 19))


def zoo_row(label='ocrnet_hr48', **published):
    known = dict(
        dataset='Cityscapes',
        miou=81.35,
        miou_ms_flip=82.7,
        source='ocrnet/metafile.yaml',
        extra_data='none',
        memory_gb=8.0,
    )
    counts = dict(
        parameters=70e6,
        modes={
            '1024x2048': dict(
                single=dict(gflops=2596.0, live_gb=2.0),
                ms_flip=dict(gflops=45101.0, live_gb=8.0),
            )
        },
    )
    return dict(
        name=f'{label}_4xb2',
        label=label,
        is_ours=False,
        published={**known, **published},
        findings=[
            dict(part='inference counts', title='', measured=counts),
            dict(part='training', title='training float32', error='Error: no'),
        ],
    )


def results_of(*rows):
    machine = dict(
        cpu='a CPU', gpu=None, cores=2, torch='2', date='today', load=None
    )
    return dict(
        command='python tools/benchmark_zoo.py',
        device='cpu',
        machine=machine,
        versions={},
        threads=1,
        max_tflop=1.0,
        models=list(rows),
    )


def test_page_says_where_every_miou_is_from():
    row = zoo_row()
    evaluated = dict(weights='w.pth', miou=dict(single=81.3))
    other = zoo_row('evaluated')
    other['findings'].append(
        dict(part='mIoU', title='mIoU', measured=evaluated)
    )
    text = page(results_of(row, other), 'cpu', has_plot=False)
    check_tables(text)
    lines = [line for line in text.splitlines() if line.startswith('| ')]
    assert (
        '| ocrnet_hr48 | one scale | 81.35 | published, ocrnet/metafile.yaml '
        '| none | 2596 | 2.00 | - |'
    ) in lines
    assert (
        '| evaluated | one scale | 81.30 | evaluated, w.pth | none | 2596 '
        '| 2.00 | - |'
    ) in lines
    quoted = [line for line in lines if '| quoted, ' in line]
    assert [line.split(' | ')[2] for line in quoted] == ['84.7', '86.92']
    assert all('Mapillary' in line for line in quoted)
    assert '| ocrnet_hr48 | training float32 | Error: no |' in lines


def test_no_score_of_another_data_set():
    text = page(results_of(zoo_row(dataset='ADE20K')), 'cpu', False)
    assert '81.35' not in text


def test_plot_without_anything(tmp_path):
    row = dict(zoo_row(), findings=[])
    assert not draw(tmp_path / 'none.png', results_of(row))
    assert not (tmp_path / 'none.png').exists()


def test_labels_of_a_crowd_do_not_overlap():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5))
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    points = [(1 + i % 4 / 20, 80 + i // 4 / 20) for i in range(16)]
    axes.plot(*zip(*points), 'o')
    axes.set_xlim(0.5, 1.7)
    axes.set_ylim(79, 81)
    canvas.draw()
    texts = [(f'model number {i}', *point) for i, point in enumerate(points)]
    artists = place_labels(axes, texts, points)
    boxes = [artist.get_window_extent() for artist in artists]
    assert len(boxes) == 16
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        for x, y in axes.transData.transform(points):
            assert not box.contains(x, y)
