"""The benchmark against the zoo: command line, resuming, limits."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import benchmark_zoo
import pytest
from benchmarks.training_steps import single_scale
from mmengine.config import Config
from zoo_benchmark import supervision
from zoo_benchmark.jobs import Findings
from zoo_benchmark.models import DEFAULT, find_model
from zoo_benchmark.options import parse_args

TOOLS = Path(__file__).parents[2] / 'tools'
TINY = Path(__file__).with_name('tiny_cityscapes.py')
OCRNET = 'ocrnet_hr48_4xb2-160k_cityscapes-512x1024'


@pytest.fixture
def ours():
    return Config.fromfile(TINY)


@pytest.fixture
def stock(ours):
    return single_scale(ours)


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


@pytest.fixture
def order(tmp_path):
    """Return a function that runs three jobs in processes of a script."""
    findings = Findings(tmp_path / 'findings')
    jobs = [dict(key=key, model='m', part='p', title=key) for key in 'abc']

    def run(monkeypatch, script, timeout=60, begun=lambda job: None):
        worker = (sys.executable, '-S', '-c', script)
        monkeypatch.setattr(supervision, '_WORKER', worker)
        limits = supervision.Limits(timeout, None, None, 'cpu')
        supervision.run_jobs(jobs, None, findings, limits, begun)
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


def test_nothing_is_left_when_time_is_up(order, monkeypatch):
    """Time is up as the second job begins."""
    begun = []
    is_over = property(lambda limits: 'b' in begun)
    monkeypatch.setattr(supervision.Limits, 'is_over', is_over)
    script = WORKER.format(fault='time.sleep(60)')
    first, *others = order(
        monkeypatch, script, begun=lambda job: begun.append(job['key'])
    )
    assert first['measured'] == 1
    assert others == [None, None]


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
        env=dict(os.environ, PYTHONPATH=str(TOOLS / 'dev')),
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
    args = parse_args('', [OCRNET, '--device', 'cpu'])
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
        parse_args('', argv)
    assert message in capsys.readouterr().err


def test_default_models_are_there():
    found = [find_model(name) for name in DEFAULT]
    assert [model.name for model in found] == list(DEFAULT)
