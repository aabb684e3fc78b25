"""Page and plot of the benchmark against the zoo."""

from itertools import combinations

from zoo_benchmark.labels import place_labels
from zoo_benchmark.plot import draw
from zoo_benchmark.report import page


def check_tables(text):
    """Every row of every table has as many cells as its head."""
    width = None
    for line in text.splitlines():
        if not line.startswith('|'):
            width = None
            continue
        width = width or line.count('|')
        assert line.count('|') == width, line


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
        command='python tools/dev/benchmark_zoo.py',
        device='cpu',
        machine=machine,
        versions={},
        threads=1,
        max_tflop=1.0,
        models=list(rows),
    )


def test_page_says_where_every_miou_is_from():
    row = zoo_row()
    timing = dict(cpu_ms=12345.0, wall_ms=2.0, cuda_gb=None)
    timed = dict(
        modes=dict(single=timing),
        left_out=dict(ms_flip=45.1),
        failed={},
    )
    title = 'inference 512x1024 float32'
    row['findings'].append(dict(part='inference', title=title, measured=timed))
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
        '| none | 2596 | 2.00 | 12.3 |'
    ) in lines
    assert (
        '| evaluated | one scale | 81.30 | evaluated, w.pth | none | 2596 '
        '| 2.00 | - |'
    ) in lines
    quoted = [line for line in lines if '| quoted, ' in line]
    assert [line.split(' | ')[2] for line in quoted] == ['84.7', '86.92']
    assert all('Mapillary' in line for line in quoted)
    assert '| ocrnet_hr48 | 6 scales x flip | (45.1 TFLOP) |' in lines
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
