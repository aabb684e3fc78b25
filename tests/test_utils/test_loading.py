"""Configs of runs and the models of their checkpoints."""

import pytest
import torch
from mmengine.config import Config

from hmsa_mmseg.utils import markdown_table
from hmsa_mmseg.utils.loading import (
    build_model,
    find_test_set,
    load_model,
)


@pytest.fixture
def cfg(tiny_model_cfg):
    content = dict(model=tiny_model_cfg(), default_scope='mmseg')
    return Config(content, cfg_text=' ', filename='config.py')


@pytest.fixture
def state(cfg):
    return dict(build_model(cfg).state_dict())


@pytest.fixture
def load(cfg, tmp_path):
    """Return a function that loads a checkpoint with this content."""

    def load(state, **meta):
        path = tmp_path / 'weights.pth'
        torch.save(dict(state_dict=state, meta=meta), path)
        return load_model(cfg, str(path))

    return load


@pytest.mark.fault(
    'keys that lack or are too many: infer, autolabel, export',
    'refused where they lack; those too many are listed',
)
def test_what_is_missing_and_unknown_is_named(load, state, capsys):
    load({**state, **{f'x{k}.': torch.zeros(1) for k in range(12)}})
    said = capsys.readouterr().out
    assert '12 entries of' in said
    assert 'x9. and 2 more' in said
    # Of batch norm's counters, torch puts in what is missing.
    number = sum('num_batches' not in key for key in state)
    with pytest.raises(
        ValueError,
        match=rf'lacks {number} .* of the model of c.*backbone.conv1.weight,.*'
        f' and {number - 10} more; has 1 entries that the model has not: x;',
    ):
        load({'x': torch.zeros(1)})
    with pytest.raises(ValueError, match='holds no weights'):
        load({})


def test_classes_of_the_checkpoint_come_first(load, state, cfg):
    # Weights of parallel training, and classes that nobody knows.
    parallel = {f'module.{key}': value for key, value in state.items()}
    assert load(parallel).dataset_meta == {}
    inner = dict(type='CityscapesDataset', metainfo=dict(classes=('a', 'b')))
    cfg.test_dataloader = dict(
        dataset=dict(
            type='RepeatDataset',
            dataset=dict(type='ConcatDataset', datasets=[inner, {}]),
        )
    )
    assert find_test_set(cfg) == inner
    meta = load(state).dataset_meta
    assert meta['classes'] == ('a', 'b')
    assert meta['palette'][0] == [128, 64, 128]
    assert load(state, dataset_meta=dict(classes=('c',))).dataset_meta == dict(
        classes=('c',)
    )
    # As mmseg 0.x wrote them.
    old = load(state, CLASSES=('d',), PALETTE=[[1, 2, 3]]).dataset_meta
    assert old == dict(classes=('d',), palette=[[1, 2, 3]])


def test_markdown_tables():
    lines = markdown_table(['a', 'b', 'c'], [('x', 'y', 1)], left=2)
    assert lines.splitlines() == [
        *('| a | b | c |', '| :-- | :-- | --: |', '| x | y | 1 |')
    ]
    with pytest.raises(ValueError, match='expected 2 cells'):
        markdown_table(['a', 'b'], [['x']])
