"""Break each guard of four rooms once: does a test notice?

    python tools/dev/break_guards.py --out mutation_out

A guard refuses or warns: an ``if`` that raises, warns or returns an error; a
call of a ``check_...``; any other ``raise``. To break it is to leave it out;
the ``raise`` of a handler: to let the first error through.

First the tests run on a copy that records which guards fire in which test, in
whatever process: no other test can notice. Then one guard after the other is
broken there, and its tests run, the fastest first, until one fails. A later
run records test files that have changed, and breaks what was not noticed.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
from collections import defaultdict
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

ROOMS = ['datasets', 'engine', 'utils', 'prediction']
TESTED = [*ROOMS, 'autolabel', 'export', 'reports', 'visualization', 'zoo']
TESTS = [f'test_{one}/**/test_*.py' for one in TESTED] + ['test_fuzz.py']
TESTS += ['test_tools/test_[ceprs]*.py', 'test_tools/test_b[!e]*.py']
FORK = multiprocessing.get_context('fork')
# What takes long to import and is not the package.
PRELOAD = ['hypothesis', 'matplotlib.pyplot', 'mmseg.apis', 'mmseg.engine']
LEFT_OUT = ['.*', '*_out', '*.egg-info', '__pycache__', 'build', 'work_dirs']
# A module of the copy; without open, as tests replace what others call.
GUARDS = r"""
import os
def stands(name, fires=True, seen=set()):
    test = os.environ.get('PYTEST_CURRENT_TEST', '')
    if fires and (name, test) not in seen:
        seen.add((name, test))
        file = os.open(os.environ['FIRED'], os.O_WRONLY | os.O_APPEND)
        os.write(file, f'{name}\t{test}\n'.encode())
        os.close(file)
    return fires and os.environ.get('BROKEN') != name
"""


def called_in(statement: ast.stmt) -> str:
    """Name of the function whose call a statement is, or returns."""
    is_one = isinstance(statement, (ast.Expr, ast.Return))
    function = getattr(statement.value, 'func', None) if is_one else None
    return getattr(function, 'attr', getattr(function, 'id', ''))


def refuses(statement: ast.stmt) -> bool:
    """Whether a statement raises, returns an error or warns."""
    name = called_in(statement)
    is_error = isinstance(statement, ast.Return) and name.endswith('Error')
    return isinstance(statement, ast.Raise) or is_error or 'warn' in name


def change(node: ast.AST, names: list, handles: bool, where: str) -> None:
    """Let all guards below a node tell when they fire, and add their names."""

    def new(kind: str, guard: ast.AST, fires: ast.expr | None = None):
        name = f'{where} {kind}: {" ".join(ast.unparse(guard).split())[:160]}'
        names.append(name + ' (again)' * (name in names))
        call = f"__import__('guards').stands({names[-1]!r})"
        call = ast.parse(call, mode='eval').body
        call.args += [fires] if fires else []
        return call

    for field in ('body', 'handlers', 'orelse', 'finalbody'):
        is_branch = isinstance(node, ast.If) and field == 'body'
        block = getattr(node, field, [])
        for i, child in enumerate(block):
            inner = handles or isinstance(child, ast.ExceptHandler), where
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = False, f'{where} {child.name}'
            if isinstance(child, ast.If):
                if any(map(refuses, child.body)):
                    child.test = new('if', child.test, child.test)
            elif called_in(child).lstrip('_').startswith('check_'):
                if isinstance(child, ast.Expr):
                    raises = [ast.If(new('check', child), [ast.Raise()], [])]
                    handlers = [ast.ExceptHandler(body=raises)]
                    block[i] = ast.Try([child], handlers, [], [])
            elif handles and isinstance(child, ast.Raise) and child.exc:
                call = new('handler', child)
                block[i] = ast.If(call, [child], [ast.Raise()])
            elif refuses(child) and not is_branch:
                block[i] = ast.If(new('other', child), [child], [])
            change(child, names, *inner)


class Check:
    """A copy of the repository whose guards are broken; a plugin of pytest."""

    def __init__(self, out: Path) -> None:
        self.out, self.file, copy = out, out / 'results.json', out / 'copy'
        shutil.rmtree(copy, ignore_errors=True)
        ignore = shutil.ignore_patterns(*LEFT_OUT, out.name)
        shutil.copytree('.', copy, ignore=ignore)
        os.chdir(copy)
        Path('guards.py').write_text(GUARDS)
        sys.path[0] = os.environ['PYTHONPATH'] = str(copy)
        os.environ.update(OMP_NUM_THREADS='1', HYPOTHESIS_PROFILE='quick')
        os.environ['FIRED'] = str(out / 'fired')
        self.names, self.seconds = [], defaultdict(float)
        for room in ROOMS:
            for path in sorted(Path('hmsa_mmseg', room).rglob('*.py')):
                tree = ast.parse(path.read_text())
                change(tree, self.names, False, str(path))
                path.write_text(ast.unparse(ast.fix_missing_locations(tree)))
        # Of each test file its hash, seconds of tests that pass, what fires;
        # of each guard what notices it.
        self.tests, self.results = {}, {}
        if self.file.is_file():
            tests, self.results = json.loads(self.file.read_text())
            self.tests = {k: tests[k] for k in tests if Path(k).is_file()}

    def run(self, broken: str, *args: str) -> list[tuple]:
        """Run tests; return name, seconds and whether it failed of each."""
        for name in ('fired', 'outcomes', 'output'):
            (self.out / name).write_text('')
        process = FORK.Process(target=self._session, args=(broken, *args))
        process.start()
        usual = sum(map(self.seconds.__getitem__, args)) if broken else 300
        process.join(60 + 4 * usual)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        rows = [json.loads(line) for line in (self.out / 'outcomes').open()]
        return rows + [['it ended early', 0, True]] * (process.exitcode != 0)

    def _session(self, broken: str, *args: str) -> None:
        os.setsid()
        os.environ['BROKEN'] = broken
        output = os.open(self.out / 'output', os.O_WRONLY)
        os.dup2(output, 1)
        os.dup2(output, 2)
        args += ('-m', 'not slow', f'--basetemp={self.out / "tmp"}', '-q')
        sys.exit(pytest.main([*args], plugins=[self]) > 1)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list) -> None:
        """Let the fastest go first."""
        items.sort(key=lambda item: self.seconds[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write down what becomes of each test."""
        if report.failed or report.when == 'call':
            row = report.nodeid, report.duration, report.failed
            with (self.out / 'outcomes').open('a') as file:
                file.write(f'{json.dumps(row)}\n')

    def record(self) -> None:
        """Run tests that have changed: which guards fire in which of them."""
        paths = [p for one in TESTS for p in sorted(Path('tests').glob(one))]
        for path in map(str, paths):
            digest = sha256(Path(path).read_bytes()).hexdigest()
            if path in self.tests and self.tests[path][0] == digest:
                continue
            rows = self.run('', path)
            failed = [test for test, _, is_failed in rows if is_failed]
            passed = {row[0]: row[1] for row in rows if row[0] not in failed}
            lines = (self.out / 'fired').read_text().splitlines()
            self.tests[path] = digest, passed, lines
            self.save(f'{path}: {len(passed)} passed; failed: {failed}')

    def break_all(self) -> None:
        """Break what is not done, one after the other."""
        fired = defaultdict(set)
        for _, passed, lines in self.tests.values():
            self.seconds.update(passed)
            for name, test in (line.split('\t') for line in lines):
                test, _, phase = test.rpartition(' (')
                found = passed if phase == 'setup)' else {test}  # a fixture
                fired[name] |= passed.keys() & found
        for name in self.names:
            if fired[name] and not self.results.get(name):
                rows = self.run(name, '-x', *sorted(fired[name]))
                by = next((test for test, _, failed in rows if failed), '')
                self.results[name] = by
                self.save(f'{name}\n    {by or "NOT NOTICED"}')

    def save(self, said: str) -> None:
        """Keep what is done, and say so."""
        print(said, flush=True)
        self.file.write_text(json.dumps([self.tests, self.results], indent=1))


def main() -> None:
    """Record, break, and print what no test notices."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, required=True)
    out = parser.parse_args().out.resolve()
    check = Check(out)
    if Path('hmsa_mmseg/compat.py').is_file():
        runpy.run_path('hmsa_mmseg/compat.py')['prepare']()
        list(map(importlib.import_module, PRELOAD))
    check.record()
    check.break_all()
    left = [name for name in check.names if not check.results.get(name)]
    count, of = len(check.names) - len(left), len(check.names)
    print(f'{count} of {of} broken guards are noticed; not:', *left, sep='\n')


if __name__ == '__main__':
    main()
