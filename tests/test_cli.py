"""`hmsa COMMAND`."""

import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from hmsa_mmseg import __version__, cli


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['hmsa'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])


def run(*argv):
    with pytest.raises(SystemExit) as error:
        cli.main(argv)
    return error.value.code


@pytest.mark.parametrize('command', cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    assert run(command, '--help') in (0, None)
    assert f'usage: hmsa {command} ' in capsys.readouterr().out


def test_help_names_all_commands_in_one_screen(capsys):
    cli.main([])
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0] for line in lines if line.startswith('  ')}
    assert {*cli.COMMANDS, 'tool'} <= named
    assert len(lines) <= 24
    assert max(map(len, lines)) < 80
    cli.main(['--version'])
    assert capsys.readouterr().out == f'{__version__}\n'


def test_an_unknown_command_is_refused():
    message = run('trian', 'config.py')
    assert "'trian'" in message
    assert 'did you mean train?' in message


@pytest.mark.parametrize(
    'argv',
    [
        ['tool', 'print_config'],
        # As in version 0.1.
        ['misc/print_config.py'],
    ],
)
def test_any_tool_of_mmseg_with_a_config_of_ours(
    argv, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    name = 'hmsa_hr18_ocr_4xb2-160k_cityscapes-512x1024.py'
    cli.main([*argv, name])
    assert 'MultiScaleAttentionSegmentor' in capsys.readouterr().out
    printed = Config.fromfile(tmp_path / 'example.py')
    config = cli.OURS / 'configs/hmsa' / name
    assert printed.to_dict() == Config.fromfile(config).to_dict()


def test_tools_are_listed(capsys):
    assert run('tool') is None
    assert 'misc/print_config.py' in capsys.readouterr().out
    assert "'no_tool' is no tool" in run('tool', 'no_tool')
    assert 'means several tools' in run('tool', 'browse_dataset')


def test_configs_are_found_by_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'hmsa_hr18_ocr_4xb2-160k_cityscapes-512x1024.py'
    path = str(cli.OURS / 'configs/hmsa' / name)
    assert cli._found_config(name) == path
    assert cli._found_config(f'hmsa/{name}') == path
    # Neither what is there, nor another folder's, nor what is no config.
    for argument in (f'other/{name}', 'mine.py', 'hmsa', '--resume'):
        assert cli._found_config(argument) == argument
    (tmp_path / name).write_text('')
    assert cli._found_config(name) == name


def test_arguments_and_exit_status_pass_through(tmp_path, monkeypatch):
    script = tmp_path / 'train.py'
    script.write_text(
        'import sys\nfrom beside import status\n'
        'assert __name__ == "__main__" and __file__.endswith("train.py")\n'
        'sys.exit(status(sys.argv))\n'
    )
    (tmp_path / 'beside.py').write_text(
        'def status(argv):\n'
        '    assert argv == ["hmsa train", "a.py", "--resume"], argv\n'
        '    return 7\n'
    )
    monkeypatch.setattr(cli, 'MMSEG_TOOLS', tmp_path)
    assert run('train', 'a.py', '--resume') == 7


def test_the_installed_command(tmp_path):
    """As a process, by both names."""
    commands = [[sys.executable, '-m', 'hmsa_mmseg']]
    installed = Path(sys.executable).with_name('hmsa')
    if installed.exists():
        commands.append([str(installed)])
    for command in commands:
        done = subprocess.run(
            [*command, 'flops', '--help'],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert 'usage: hmsa flops ' in done.stdout
