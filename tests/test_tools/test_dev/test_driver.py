"""The driver of the experiments: jobs, and what is known of them."""

import multiprocessing
import os
import signal
import sys
import time

import pytest
from driver import commands, jobs
from driver.jobs import Driver, Run, lock_folder


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / 'run', dict(seed=0))


def add(run, name, code='', needs=(), **options):
    """Add a job that makes a file of its name."""
    code += f'\nopen({str(run.root / name)!r}, "a").write(".")'
    command = [sys.executable, '-S', '-E', '-c', code]
    run.add(name, lambda: command, run.root / name, needs=needs, **options)


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Return a function that runs jobs and returns what it has started."""
    monkeypatch.setattr(jobs, 'PAUSE', 0.01)

    def drive(run):
        driver = Driver([run], lock_folder(tmp_path), 2)
        names = [job.name for job in driver.waiting]
        driver.run()
        return names

    return drive


def test_jobs_wait_for_what_they_need(run, drive):
    made = str(run.root / 'maker')
    add(run, 'user', f'open({made!r})', needs=['maker'])
    slow = 'import time; time.sleep(0.3)'
    add(run, 'maker', slow, finish=lambda: dict(mIoU=50.0))
    assert drive(run) == ['user', 'maker']
    # Noted in the folder.
    again = Run(run.root, dict(seed=0))
    again.jobs = run.jobs
    assert again.result('maker') == run.result('maker') == dict(mIoU=50.0)
    assert again.total('seconds') == run.total('seconds')
    assert drive(again) == []


def test_only_what_is_wanted_and_lost_is_made(run, drive):
    add(run, 'training', wanted=False)
    add(run, 'score', needs=['training'])
    add(run, 'other', wanted=False)
    assert drive(run) == ['training', 'score']
    (run.root / 'training').unlink()
    assert drive(run) == []
    (run.root / 'score').unlink()
    assert drive(run) == ['training', 'score']


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_failure_is_shown_and_ends_the_others(run, drive):
    pid = run.root / 'pid'
    add(
        run,
        'long',
        f'import os, time; open({str(pid)!r}, "w").write(str(os.getpid())); '
        'time.sleep(300)',
    )
    add(
        run,
        'bad',
        f'import os, time\nwhile not os.path.exists({str(pid)!r}):\n'
        '    time.sleep(0.01)\nprint("reason")\nraise SystemExit(3)',
    )
    with pytest.raises(SystemExit, match=r'(?s)reason.*bad failed \(3\)'):
        drive(run)
    assert not run.is_done('long')
    assert not run.is_done('bad')
    assert not is_running(int(pid.read_text()))
    # So has one that makes nothing.
    run.jobs.clear()
    add(run, 'idle')
    run.jobs['idle'].makes = run.root / 'other'
    with pytest.raises(SystemExit, match=r'expected it to make .*other'):
        drive(run)
    assert not run.is_done('idle')


def test_other_settings_are_refused(tmp_path, run):
    with pytest.raises(SystemExit, match='holds a run with other settings'):
        Run(run.root, dict(seed=1))
    (run.root / 'state.json').rename(run.root / '.state.json.host.1.part')
    Run(run.root, dict(seed=1))
    letter = tmp_path / 'letter.txt'
    letter.write_text('dear')
    with pytest.raises(SystemExit, match=r'has no state\.json'):
        Run(tmp_path, dict(seed=1))
    assert letter.read_text() == 'dear'


def test_a_changed_config_is_another_recipe(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('lr = 0.1')
    before = commands.recipe([config])
    assert commands.recipe([config]) == before
    config.write_text('lr = 0.2')
    assert commands.recipe([config]) != before


def drive_two(root):
    """Drive two jobs, of which the second waits as long as a file says."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    lock = lock_folder(root)
    run = Run(root / 'run', {})
    pid = 'import os, time; open({!r}, "a").write(f"{{os.getpid()}} ")\n'
    wait = f'time.sleep(float(open({str(root / "pause")!r}).read()))'
    for name, more in (('a', ''), ('b', wait)):
        add(run, f'made {name}', pid.format(str(run.root / name)) + more)
    Driver([run], lock).run()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_driver_goes_on(tmp_path, number):
    fork = multiprocessing.get_context('fork')
    pause, b = tmp_path / 'pause', tmp_path / 'run' / 'b'
    pause.write_text('300' if number == signal.SIGTERM else '0.5')
    process = fork.Process(target=drive_two, args=(tmp_path,))
    process.start()
    while not (b.exists() and b.read_text()):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(60)
    if number == signal.SIGTERM:
        assert not is_running(int(b.read_text()))
    pause.write_text('0')
    # After a program that outlives its driver.
    process = fork.Process(target=drive_two, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert len(b.read_text().split()) == 2
    assert len((tmp_path / 'run' / 'a').read_text().split()) == 1


@pytest.fixture
def models(run, monkeypatch):
    monkeypatch.setattr(commands, 'iterations', lambda config: 4)
    return commands.Models(run, seed=3, options=['a=1'])


def words(job):
    return [str(part) for part in job.command()]


def test_commands_of_a_training(run, models, tmp_path):
    models.train('start', tmp_path / 'a.py')
    models.train('other', tmp_path / 'b.py', iters=2, start='start')
    job = run.jobs['train start']
    assert words(job)[-2:] == ['randomness.seed=3', 'a=1']
    assert job.makes == run.root / 'start' / 'iter_4.pth'
    job, load = run.jobs['train other'], f'{run.root}/start/iter_4.pth'
    assert job.needs == ['train start']
    assert '--resume' not in words(job)
    assert f'load_from={load}' in words(job)
    assert 'param_scheduler.0.end=2' in words(job)
    # Once begun it goes on from its own checkpoint.
    (run.root / 'other').mkdir()
    (run.root / 'other' / 'last_checkpoint').touch()
    assert '--resume' in words(job)
    assert f'load_from={load}' not in words(job)


def test_a_training_stopped_in_its_last_validation(run, models, tmp_path):
    models.train('a', tmp_path / 'a.py', needs_val=True)
    job = run.jobs['train a']
    log = run.root / 'a' / 'time' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    job.makes.touch()
    log.write_text('{"loss": 1}\n{"mIoU": 40.123, "step": 4}\n')
    job.command()
    assert job.finish() == 40.12
    log.write_text('{"loss": 1}\n{"mI')
    job.command()
    assert not job.makes.exists()
    with pytest.raises(SystemExit, match='has logged no mIoU'):
        job.finish()


def test_result_of_a_test(run, models, tmp_path):
    models.train('a', tmp_path / 'a.py')
    models.test('a', 'a', tmp_path / 'a.py', ['--tta'], ['b=2'])
    job = run.jobs['test a']
    old = run.root / 'tests' / 'a' / 'old'
    old.mkdir(parents=True)
    command = words(job)
    assert not old.exists()
    assert str(run.root / 'a' / 'iter_4.pth') in command
    assert command[-4:] == ['--tta', '--cfg-options', 'a=1', 'b=2']
    with pytest.raises(SystemExit, match='found 0 reports'):
        job.finish()
    old.mkdir()
    # Two processes have written it, one on top of the other.
    (old / 'time.json').write_text('{"mIoU": 50.5, "time": 1}.25}')
    assert job.finish()['mIoU'] == 50.5
