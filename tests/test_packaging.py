"""The wheel: what it holds, and that it works away from the checkout."""

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    *('hmsa_mmseg', 'configs', 'tools', 'setup.py', 'pyproject.toml'),
    *('MANIFEST.in', 'README.md', 'model-index.yml', 'LICENSE', 'NOTICE'),
]


def run(*args, **kwargs):
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        **kwargs,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Build the wheel from a copy, without the links of an editable one."""
    source = tmp_path_factory.mktemp('source')
    ignore = shutil.ignore_patterns('.mim', '__pycache__')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp('wheel')
    options = ['--no-deps', '--no-build-isolation', '--quiet']
    run('-m', 'pip', 'wheel', *options, '-w', out, source)
    (path,) = out.glob('hmsa_mmseg-*.whl')
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split('/')[0] for name in names}
    assert {top for top in tops if '.dist-info' not in top} == {'hmsa_mmseg'}
    inside = set(names)
    for folder, pattern in (('configs', '*.py'), ('tools', '*.py')):
        wanted = [
            f'hmsa_mmseg/.mim/{path.relative_to(ROOT)}'
            for path in (ROOT / folder).rglob(pattern)
            if 'dev' not in path.parts
        ]
        assert wanted
        assert set(wanted) <= inside
    templates = ROOT / 'hmsa_mmseg/reports/templates'
    assert {str(p.relative_to(ROOT)) for p in templates.iterdir()} <= inside
    assert 'hmsa_mmseg/.mim/model-index.yml' in inside
    assert 'hmsa_mmseg/.mim/configs/hmsa/metafile.yaml' in inside
    unwanted = ('__pycache__', '/tools/dev/')
    assert not [n for n in names if any(part in n for part in unwanted)]
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in names if n.endswith('/METADATA'))
        metadata = archive.read(name).decode()
    # mmseg forgets the first three.
    for requirement in ('ftfy', 'regex', 'setuptools', 'mmsegmentation'):
        assert f'Requires-Dist: {requirement}' in metadata


def test_a_setuptools_that_installs_an_empty_package_is_refused(monkeypatch):
    monkeypatch.setattr(setuptools, '__version__', '67.8.0.post1')
    with pytest.raises(SystemExit, match=r'found 67\.8\.0\.post1: pip ins'):
        runpy.run_path(str(ROOT / 'setup.py'))


def test_a_config_inside_the_wheel_trains(wheel, tmp_path):
    site, away = tmp_path / 'site', tmp_path / 'away'
    away.mkdir()
    run(
        *('-m', 'pip', 'install', '--quiet', '--no-deps', '--target', site),
        wheel,
    )
    # --target goes before the editable install on the path.
    env = {**os.environ, 'PYTHONPATH': str(site), 'OMP_NUM_THREADS': '1'}
    code = 'import hmsa_mmseg; print(hmsa_mmseg.__file__)'
    where = run('-c', code, env=env, cwd=away)
    assert Path(where.strip()).is_relative_to(site)

    mim = site / 'hmsa_mmseg' / '.mim'
    data = away / 'data'
    run(
        *(ROOT / 'tools/dev/scenes.py', '--out', data, '--seed', 0),
        *('--train', 4, '--val', 2, '--test', 1),
        env=env,
        cwd=away,
    )
    import mmseg

    train = Path(mmseg.__file__).parent / '.mim/tools/train.py'
    (config,) = (mim / 'configs/demo').glob('hmsa_*.py')
    run(
        *(train, config, '--work-dir', away / 'work', '--cfg-options'),
        f'train_dataloader.dataset.data_root={data}',
        f'val_dataloader.dataset.data_root={data}',
        f'test_dataloader.dataset.data_root={data}',
        *('train_cfg.max_iters=1', 'train_cfg.val_interval=1'),
        *('train_dataloader.batch_size=2', 'train_dataloader.num_workers=0'),
        'train_dataloader.persistent_workers=False',
        'default_hooks.checkpoint.interval=1',
        env=env,
        cwd=away,
    )
    assert (away / 'work/iter_1.pth').is_file()
