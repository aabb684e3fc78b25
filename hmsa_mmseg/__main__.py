"""Run one of mmseg's own tools with this package loaded.

``python -m hmsa_mmseg misc/print_config.py CONFIG`` is
``python <mmseg>/.mim/tools/misc/print_config.py CONFIG`` after ``import
hmsa_mmseg``. train.py and test.py import it themselves, as their config says;
some other tools import ``mmseg.apis`` before they read any config, which
fails on mmcv-lite.
"""

import runpy
import sys
from pathlib import Path

import mmseg

TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'


def main() -> None:
    """Run the tool named by the first argument with the other arguments."""
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    tool = TOOLS / name
    if not tool.is_file():
        found = (path.relative_to(TOOLS) for path in TOOLS.rglob('*.py'))
        names = '\n  '.join(sorted(path.as_posix() for path in found))
        sys.exit(
            f'usage: python -m hmsa_mmseg TOOL [ARGUMENT ...]\nTOOL: {name!r} '
            f'is not one of mmseg, which has (under {TOOLS})\n  {names}'
        )
    sys.argv[:] = [str(tool), *sys.argv[2:]]
    runpy.run_path(str(tool), run_name='__main__')


if __name__ == '__main__':
    main()
