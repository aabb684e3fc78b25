"""Checkpoints to be published: their names and what they hold."""

import hashlib
import subprocess

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

TOOL = 'misc/publish_model.py'


def checkpoint(path):
    runtime = dict(best_score=np.float64(0.5), iter=4)
    torch.save(
        dict(
            state_dict=dict(weight=torch.arange(3.0)),
            meta=dict(dataset_meta=dict(classes=['a'])),
            optimizer=dict(state=torch.ones(2)),
            message_hub=dict(
                log_scalars=dict(loss=HistoryBuffer([1.0], [1])),
                runtime_info=runtime,
                resumed_keys=dict(loss=True, iter=True),
            ),
        ),
        path,
    )
    return str(path)


def test_stock_cuts_the_name(run_stock, tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(subprocess, 'Popen', moved.append)
    torch.save(dict(state_dict={}), tmp_path / 'in.pth')
    run_stock(TOOL, tmp_path / 'in.pth', 'depth.pth')
    ((_, _, name),) = moved
    written = hashlib.sha256((tmp_path / 'depth.pth').read_bytes())
    assert name != f'depth-{written.hexdigest()[:8]}.pth', (
        f"mmseg's {TOOL} works again: tools/{TOOL} and its tests can go, and "
        'its row in docs/tools.md changes'
    )


def test_name_and_entries(load_tool, tmp_path, capsys, load):
    tool, source = load_tool(TOOL), checkpoint(tmp_path / 'in.pth')
    out = tmp_path / 'made'

    def publish(*options):
        assert tool.main([source, str(out / 'depth.pth'), *options]) == 0
        (path,) = out.iterdir()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.name == f'depth-{digest[:8]}.pth'
        found = load(path)
        path.unlink()
        return found

    found = publish()
    assert 'not published: message_hub, optimizer' in capsys.readouterr().out
    assert found.keys() == {'state_dict', 'meta'}
    assert torch.equal(found['state_dict']['weight'], torch.arange(3.0))
    assert found['meta'] == dict(dataset_meta=dict(classes=['a']))
    assert publish('--save-keys', 'state_dict').keys() == {'state_dict'}
    # All entries, as plain values.
    found = publish('--all')
    assert torch.equal(found['optimizer']['state'], torch.ones(2))
    runtime = dict(best_score=0.5, iter=4)
    assert found['message_hub'] == dict(
        log_scalars={}, runtime_info=runtime, resumed_keys=dict(iter=True)
    )


@pytest.mark.fault(
    'a damaged file for hmsa publish',
    'an error with its path; nothing is written',
)
def test_errors(load_tool, tmp_path, capsys):
    tool, path = load_tool(TOOL), tmp_path / 'weights.pth'
    torch.save([1], path)
    assert tool.main([str(path), str(tmp_path / 'out.pth')]) == 1
    assert 'has no entry state_dict' in capsys.readouterr().err
    path.write_bytes(b'nothing')
    assert tool.main([str(path), str(tmp_path / 'out.pth')]) == 1
    assert f'cannot load {path}' in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [path]
