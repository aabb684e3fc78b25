"""Checkpoints to be published: their names and what they hold."""

import hashlib
import subprocess

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

TOOL = 'misc/publish_model.py'


def checkpoint(path):
    torch.save(
        dict(
            state_dict=dict(weight=torch.arange(3.0)),
            meta=dict(dataset_meta=dict(classes=['a'])),
            optimizer=dict(state=torch.ones(100)),
            message_hub=dict(log_scalars={}),
        ),
        path,
    )
    return str(path)


def test_stock_cuts_the_name(run_stock, tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(subprocess, 'Popen', moved.append)
    run_stock(TOOL, checkpoint(tmp_path / 'in.pth'), 'depth.pth')
    ((_, _, name),) = moved
    written = hashlib.sha256((tmp_path / 'depth.pth').read_bytes())
    assert name != f'depth-{written.hexdigest()[:8]}.pth', (
        f"mmseg's {TOOL} works again: tools/{TOOL} and its tests can go, and "
        'its row in docs/tools.md changes'
    )


def test_name_and_entries(load_tool, tmp_path, capsys, load):
    tool, source = load_tool(TOOL), checkpoint(tmp_path / 'in.pth')
    out = tmp_path / 'made'
    assert tool.main([source, str(out / 'depth.pth')]) == 0
    assert 'not published: message_hub, optimizer' in capsys.readouterr().out
    (path,) = out.iterdir()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'depth-{digest[:8]}.pth'
    found = load(path)
    assert found.keys() == {'state_dict', 'meta'}
    assert torch.equal(found['state_dict']['weight'], torch.arange(3.0))
    assert found['meta'] == dict(dataset_meta=dict(classes=['a']))
    assert (
        tool.main([source, str(out / 'x'), '--save-keys', 'state_dict']) == 0
    )
    (path,) = out.glob('x-*.pth')
    assert load(path).keys() == {'state_dict'}


def test_all_entries_as_plain_values(load_tool, tmp_path, capsys, load):
    tool, path = load_tool(TOOL), tmp_path / 'in.pth'
    runtime = dict(best_score=np.float64(0.5), iter=4)
    torch.save(
        dict(
            state_dict=dict(weight=torch.arange(3.0)),
            optimizer=dict(state=torch.ones(2)),
            message_hub=dict(
                log_scalars=dict(loss=HistoryBuffer([1.0], [1])),
                runtime_info=runtime,
                resumed_keys=dict(loss=True, iter=True),
            ),
        ),
        path,
    )
    assert tool.main([str(path), str(tmp_path / 'out.pth'), '--all']) == 0
    (path,) = tmp_path.glob('out-*.pth')
    found = load(path)
    assert torch.equal(found['optimizer']['state'], torch.ones(2))
    assert torch.equal(found['state_dict']['weight'], torch.arange(3.0))
    assert found['message_hub'] == dict(
        log_scalars={}, runtime_info=runtime, resumed_keys=dict(iter=True)
    )
    assert 'not published' not in capsys.readouterr().out


def test_errors(load_tool, tmp_path, capsys):
    tool = load_tool(TOOL)
    path = tmp_path / 'weights.pth'
    torch.save([1], path)
    assert tool.main([str(path), str(tmp_path / 'out.pth')]) == 1
    assert 'has no entry state_dict' in capsys.readouterr().err
    path.write_bytes(b'nothing')
    assert tool.main([str(path), str(tmp_path / 'out.pth')]) == 1
    assert f'cannot load {path}' in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [path]
