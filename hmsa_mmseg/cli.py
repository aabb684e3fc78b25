"""``hmsa COMMAND``: the tools of this package and of mmseg in one place.

``python -m hmsa_mmseg COMMAND`` is the same, which ``torchrun -m`` can start.
"""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import mmseg

from .utils.loading import read_config
from .version import __version__

#: Where both packages keep what is no module; ours, where it was not
#: installed, beside the package.
OURS = Path(__file__).parent / '.mim'
if not OURS.is_dir():
    OURS = Path(__file__).parents[1]
MMSEG_TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'

# Command -> script, and what it does.
COMMANDS = {
    'from-zoo': ('from_zoo.py', 'a config from one of mmseg, for your data'),
    'train': ('train.py', "train, by mmseg's train.py"),
    'test': ('test.py', "score and draw, by mmseg's test.py"),
    'report': ('report.py', 'a page about a test, or about labels'),
    'infer': ('infer.py', 'predict images, folders and videos'),
    'label': ('autolabel.py', 'label images with a trained model'),
    'add-attention': ('add_attention.py', 'attention for a trained model'),
    'convert': (
        'model_converters/nvidia2mmseg.py',
        "the authors' checkpoints to ours, and back",
    ),
    'export': ('export.py', 'ONNX and torch.export'),
    'centroids': ('build_centroids.py', 'where the classes are, for sampling'),
    'masks': ('dataset_converters/colour_masks.py', 'colours to classes'),
    'flops': ('analysis_tools/get_flops.py', 'operations and parameters'),
    'browse': ('analysis_tools/browse_dataset.py', 'what training sees'),
    'confusion': ('analysis_tools/confusion_matrix.py', 'a confusion matrix'),
    'publish': ('misc/publish_model.py', 'a checkpoint to pass on'),
}
#: These run mmseg's script.
_OF_MMSEG = ('train', 'test')


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    A config that is no file is looked for among those of this package.

    Args:
        argv (Sequence[str], optional): Command and arguments. Defaults to
            those of the process.

    Raises:
        SystemExit: If there is no such command, and as the command does.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    name, args = (argv[0], argv[1:]) if argv else ('', [])
    if name in ('', '-h', '--help'):
        print(_usage())
        return
    if name == '--version':
        print(__version__)
        return
    if name.endswith('.py'):  # As python -m hmsa_mmseg TOOL of version 0.1.
        name, args = 'tool', [name, *args]
    if name == 'tool':
        script, args = _tool(args), args[1:]
        name = script.name
    elif name in COMMANDS:
        tools = MMSEG_TOOLS if name in _OF_MMSEG else OURS / 'tools'
        script = tools / COMMANDS[name][0]
        name = f'hmsa {name}'
    else:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f'; did you mean {near[0]}?' if near else ''
        sys.exit(f'hmsa: {name!r} is no command{hint}\n\n{_usage()}')
    _run(script, [name, *map(_found_config, args)])


def _usage() -> str:
    rows = [f'  {name:14} {what}' for name, (_, what) in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: hmsa COMMAND [ARGUMENT ...]',
            '',
            *rows,
            f'  {"tool NAME":14} any other tool of mmseg; all without NAME',
            '',
            'hmsa COMMAND --help tells about one. Several GPUs:',
            '  torchrun --nproc_per_node 4 -m hmsa_mmseg train CONFIG '
            '--launcher pytorch',
        ]
    )


def _tool(args: Sequence[str]) -> Path:
    """Find a tool of mmseg by its path, or by its name alone."""
    scripts = sorted(MMSEG_TOOLS.rglob('*.py'))
    name = args[0] if args else ''
    asked = name.removesuffix('.py')
    found = [
        path
        for path in scripts
        if asked
        in (
            path.relative_to(MMSEG_TOOLS).with_suffix('').as_posix(),
            path.stem,
        )
    ]
    if len(found) == 1:
        return found[0]
    names = '\n  '.join(
        path.relative_to(MMSEG_TOOLS).as_posix() for path in found or scripts
    )
    if not name:
        print(f'usage: hmsa tool NAME [ARGUMENT ...]\n  {names}')
        sys.exit()
    problem = 'means several tools' if found else 'is no tool'
    sys.exit(
        f'hmsa tool: {name!r} {problem} of mmseg; expected one of (under '
        f'{MMSEG_TOOLS})\n  {names}'
    )


def _found_config(argument: str) -> str:
    """The path of a config of this package that is given by its name."""
    if not argument.endswith('.py') or Path(argument).exists():
        return argument
    configs = OURS / 'configs'
    found = [configs / argument, *sorted(configs.rglob(Path(argument).name))]
    found = [path for path in found if path.is_file()]
    is_name = Path(argument).name == argument
    if found and (is_name or found[0] == configs / argument):
        return str(found[0])
    return argument


def _run(script: Path, argv: list[str]) -> None:
    """Run a script as ``python script`` does, under another name."""
    module = ModuleType('__main__')
    module.__file__ = str(script)
    # What data loaders that are spawned import.
    sys.modules['__main__'] = module
    sys.path.insert(0, str(script.parent))
    sys.argv[:] = argv
    code = compile(script.read_bytes(), str(script), 'exec')
    try:
        exec(code, vars(module))
    except Exception as error:
        sys.exit(f'error: {_cause(error, argv)}')


def _cause(error: Exception, argv: Sequence[str]) -> str:
    """Say what has ended a script in a line, of which files it was called."""
    configs = [path for path in argv[1:] if path.endswith('.py')]
    runs = [f'hmsa {name}' for name in _OF_MMSEG]
    try:
        for path in configs[:1]:
            # Others may do without a model.
            read_config(path, {} if argv[0] in runs else dict(model={}))
        if isinstance(error, (FileNotFoundError, IsADirectoryError)):
            raise error
    except (OSError, ValueError) as found:
        return str(found)
    traceback.print_exc()
    return f'{" ".join(argv)}: {type(error).__name__}: {error}'


if __name__ == '__main__':
    main()
