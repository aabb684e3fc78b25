"""Parts of the loop of auto-labelling: polygons, jobs, tables."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / 'tools' / 'dev'
# The tools are scripts, which find each other in their own folder.
sys.path.insert(0, str(TOOLS))

from autolabel_demo import bars, coarse, recipes, summary  # noqa: E402
from autolabel_demo.jobs import Job, JobPool  # noqa: E402
from demo import street_scenes  # noqa: E402


def scenes(count=6):
    for index in range(count):
        rng = np.random.default_rng([5, 3, index])
        yield street_scenes.draw_scene(rng)[1]


def test_polygons_hold_the_truth_and_keep_off_borders():
    margin = coarse.MARGIN - coarse.TOLERANCE
    assert margin >= 1
    seen = 0
    for truth in scenes():
        polygons = coarse.coarse_polygons(truth)
        assert polygons.dtype == np.uint8
        rows, cols = np.nonzero(polygons)
        seen += len(rows)
        # Neighbours at a distance of one px are of the same thing.
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                near = truth[
                    (rows + down).clip(0, truth.shape[0] - 1),
                    (cols + right).clip(0, truth.shape[1] - 1),
                ]
                assert np.array_equal(near, polygons[rows, cols])
    assert seen > 0


def test_small_things_have_no_polygons():
    truths = [*scenes()]
    found = {*np.unique([coarse.coarse_polygons(t) for t in truths])}
    true = {*np.unique(truths)}
    ids = {name: value for name, (value, _) in street_scenes.LABELS.items()}
    left_out = {ids['pole'], ids['traffic sign']}
    assert left_out < true
    assert not left_out & found
    large = ('road', 'building', 'wall', 'sky', 'car', 'truck', 'vegetation')
    assert {ids[name] for name in large} <= found


def test_a_hole_is_left_open():
    truth = np.full((60, 60), 7, np.uint8)
    truth[25:35, 25:35] = 26
    polygons = coarse.coarse_polygons(truth)
    assert set(polygons[20:40, 20:40][8:12, 8:12].flat) == {0}
    assert polygons[5, 5] == 7
    # A border of the image is none of the thing.
    assert polygons[0, 0] == 7


class Log:
    """Notes what a pool tells."""

    def __init__(self, tmp_path, done=()):
        self.folder = tmp_path
        self.before = {*done}
        self.done, self.failed, self.jobs = [], [], []

    def add(self, key, code='', needs=(), **options):
        command = [sys.executable, '-S', '-E', '-c', code]
        log = self.folder / f'{key}.log'
        job = Job(key, lambda: command, needs, 1.0, log, **options)
        self.jobs.append(job)

    def note(self, key, spent, cpu, is_done):
        assert spent >= 0
        assert cpu >= 0
        (self.done if is_done else self.failed).append(key)

    def run(self, slots=2):
        with open(self.folder / 'lock', 'w') as lock:
            pool = JobPool(
                *(self.jobs, slots, 1, lock, self.note),
                is_done=lambda key: key in self.before,
            )
            pool.run()


def test_jobs_wait_for_what_they_need(tmp_path):
    log = Log(tmp_path)
    made = tmp_path / 'made'
    log.add('user', f'open({str(made)!r})', needs=('maker',))
    log.add('maker', f'open({str(made)!r}, "w")')
    log.run()
    assert log.done == ['maker', 'user']
    assert log.failed == []


def test_what_is_done_is_not_run_again(tmp_path):
    log = Log(tmp_path, done=['old'])
    log.add('old', 'raise SystemExit(1)')
    log.add('new', needs=('old',))
    log.run()
    assert log.done == ['new']


def test_as_many_at_a_time_as_there_are_slots(tmp_path):
    log = Log(tmp_path)
    # Each waits until the other runs as well.
    code = textwrap.dedent("""
        import os, time
        open({own!r}, 'w')
        end = time.monotonic() + 60
        while not os.path.exists({other!r}):
            assert time.monotonic() < end
            time.sleep(0.01)
    """)
    a, b = str(tmp_path / 'a'), str(tmp_path / 'b')
    log.add('one', code.format(own=a, other=b))
    log.add('two', code.format(own=b, other=a))
    log.run()
    assert {*log.done} == {'one', 'two'}


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_failure_is_shown_and_ends_the_others(tmp_path):
    log = Log(tmp_path)
    pid = tmp_path / 'pid'
    log.add(
        'long',
        f'import os, time; open({str(pid)!r}, "w").write(str(os.getpid())); '
        'time.sleep(300)',
    )
    log.add(
        'bad',
        f'import os, time\nwhile not os.path.exists({str(pid)!r}):\n'
        '    time.sleep(0.01)\nprint("reason")\nraise SystemExit(3)',
    )
    with pytest.raises(SystemExit, match=r'(?s)reason.*bad failed \(3\)'):
        log.run()
    assert log.done == []
    assert {*log.failed} == {'long', 'bad'}
    assert not is_running(int(pid.read_text()))


def test_a_result_that_is_not_there_is_a_failure(tmp_path):
    log = Log(tmp_path)

    def finish():
        raise RuntimeError('no score')

    log.add('test', finish=finish)
    with pytest.raises(RuntimeError, match='no score'):
        log.run()
    assert log.done == []
    assert log.failed == ['test']


def test_a_kill_ends_the_programs(tmp_path):
    """By the signal that ``kill`` and schedulers send."""
    script = tmp_path / 'script.py'
    pid = tmp_path / 'pid'
    script.write_text(
        textwrap.dedent(f"""
        import signal, sys
        sys.path[:0] = [{str(TOOLS)!r}]
        from pathlib import Path
        from autolabel_demo.jobs import Job, JobPool
        signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
        code = 'import os, time; print(os.getpid(), flush=True);'
        code += 'time.sleep(300)'
        command = [sys.executable, '-c', code]
        job = Job('a', lambda: command, (), 1.0, Path({str(pid)!r}))
        with open({str(tmp_path / 'lock')!r}, 'w') as lock:
            JobPool([job], 1, 1, lock, print, lambda key: False).run()
        """)
    )
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True
    )
    while not (pid.exists() and pid.read_text().strip()):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re_note(output) == ('a', 'False')
    assert not is_running(int(pid.read_text()))


def re_note(output):
    """Find the line that ``print`` made of a note."""
    line = output.splitlines()[-1].split()
    return line[0], line[-1]


def row(key, values, fine=None):
    fine = fine or values
    return dict(
        key=key,
        title=key.title(),
        labels='some',
        val=summary.spread(values),
        test=summary.spread(values),
        above_fine=summary.spread([a - b for a, b in zip(values, fine)]),
    )


def results_of(better):
    fine = [50.0, 54.0, 52.0]
    rows = [row('start', fine), row('fine', fine)]
    for recipe in recipes.RECIPES[2:]:
        values = [a + b for a, b in zip(fine, better)]
        rows.append(row(recipe.key, values, fine))
    return dict(
        rows=rows,
        iters=[7, 3],
        images=dict(test=60),
        second={0: 'student-0.5', 1: 'student-0.9', 2: 'student-0.5'},
    )


@pytest.mark.parametrize(
    ('better', 'change', 'seeds'),
    [
        ([1, 2, 3], '+2.0 (+1.0 to +3.0)', 'better in 3 of 3 seeds'),
        ([-1, 2, -4], '-1.0 (-4.0 to +2.0)', 'better in 1 of 3 seeds'),
    ],
)
def test_findings_say_what_the_numbers_say(better, change, seeds):
    texts = summary.findings(results_of(better))
    assert len(texts) == len(recipes.RECIPES) - 1
    for text in texts[:-1]:
        assert change in text
        assert seeds in text
    # As good as the students.
    assert texts[-1].endswith(': +0.0 (+0.0 to +0.0).')


def test_table():
    cells = summary.table_rows(results_of([1, 2, 3]))
    lines = summary.markdown(cells).splitlines()
    assert len({len(line) for line in lines}) == 1
    start, fine, teacher, *_ = lines[2:]
    assert '| 7 ' in start
    assert '| 7 + 3 ' in fine
    assert '52.0 (50.0 to 54.0)' in fine
    assert '+2.0 (+1.0 to +3.0)' in teacher
    assert '+2.0' not in fine


def test_the_second_teacher_is_chosen_on_val():
    for better in ('student-0.5', 'student-0.9'):
        val = {'student-0.5': 60.0, 'student-0.9': 60.0, better: 61.0}
        assert recipes.better_student(val).key == better


def test_bars_show_mean_and_range():
    rows = [row('fine', [50.0, 54.0]), row('other', [60.0, 64.0])]
    drawn = bars.draw_bars(rows)
    assert drawn.start < 50
    first, second = drawn.bars
    unit = (second.length - first.length) / 10
    assert first.length == pytest.approx(unit * (52 - drawn.start), abs=0.2)
    for bar in drawn.bars:
        assert 0 < bar.least < bar.length < bar.most <= 100
        assert bar.dots == [bar.least, bar.most]
