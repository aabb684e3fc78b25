"""Checkpoints of mmengine's own hook, which hold its log history."""

import pytest
import torch
from mmengine.logging import HistoryBuffer

from hmsa_mmseg.engine.plain import make_plain
from hmsa_mmseg.utils import safe_load


@pytest.fixture
def stock(run, tmp_path):
    """Return the file of half a run, and the whole run."""
    runner = run('stock', hook='CheckpointHook')
    return tmp_path / 'stock' / 'iter_2.pth', runner


def test_mmengine_resumes_from_them(stock, run):
    path, whole = stock
    resumed = run(
        'resumed', hook='CheckpointHook', load_from=str(path), resume=True
    )
    assert resumed.iter == 4
    loss = resumed.message_hub.get_scalar('train/loss').data[0]
    assert len(loss) == 4
    state = resumed.model.state_dict()
    torch.testing.assert_close(state, whole.model.state_dict())


@pytest.mark.fault(
    "a checkpoint of mmengine's own hook, with HistoryBuffer",
    'read; made plain, it can be resumed from anywhere',
)
def test_a_plain_one_is_resumed_from(stock, run, tmp_path, load):
    checkpoint = safe_load(stock[0])
    history = checkpoint['message_hub']['log_scalars']['train/loss']
    assert type(history) is HistoryBuffer
    assert history.statistics('mean') == history.data[0].mean()
    make_plain(checkpoint)
    path = tmp_path / 'plain.pth'
    torch.save(checkpoint, path)
    assert load(path).keys() == checkpoint.keys()
    resumed = run('resumed', load_from=str(path), resume=True)
    assert resumed.iter == 4
    assert resumed.message_hub.get_info('best_score') == 61.25
    state = resumed.model.state_dict()
    torch.testing.assert_close(state, stock[1].model.state_dict())
