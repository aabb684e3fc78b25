"""Puts configs and tools where mmengine and mim look for them.

Everything else is in pyproject.toml. Under `<package>/.mim` an editable
install gets symbolic links, so that edits are seen, and a wheel gets copies.
"""

import shutil
import sys
from pathlib import Path

import setuptools
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# Versions before 61 do not read pyproject.toml: they install an empty package
# named UNKNOWN. Before 64 they have no editable installs.
if int(setuptools.__version__.split('.')[0]) < 68:
    sys.exit(
        'hmsa_mmseg is built with setuptools 68 to 81, found '
        + setuptools.__version__
        + ': pip install "setuptools>=68,<82" wheel'
    )

ROOT = Path(__file__).resolve().parent
CONTENTS = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    def run(self):
        super().run()
        package = Path(self.build_lib) / 'hmsa_mmseg'
        if self.editable_mode:
            package = ROOT / 'hmsa_mmseg'
        mim = package / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in CONTENTS:
            if self.editable_mode:
                (mim / name).symlink_to(Path('..', '..', name))
            elif (ROOT / name).is_dir():
                # tools/dev proves claims; users never run it.
                ignore = shutil.ignore_patterns('__pycache__', '*.pyc', 'dev')
                shutil.copytree(ROOT / name, mim / name, ignore=ignore)
            else:
                shutil.copy(ROOT / name, mim / name)


setup(
    packages=find_packages(include=['hmsa_mmseg*']),
    include_package_data=False,
    zip_safe=False,
    cmdclass={'build_py': BuildWithMim},
)
