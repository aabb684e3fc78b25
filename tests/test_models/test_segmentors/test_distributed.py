"""Two processes train what one process with their joint batch trains.

On the CPU with gloo; the jobs run in one pair of processes, whose start takes
longer than the jobs.
"""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from test_models.cases import FCN, MEAN, learned, step

from hmsa_mmseg import compat

WORKER = Path(__file__).with_name('distributed_worker.py')
CONFIGS = Path(__file__).parents[3] / 'configs'
GN = dict(type='GN', num_groups=2)
with_hrnet = pytest.mark.parametrize(
    'zoo_case', ['hrnet_fcn-ocr'], indirect=True
)


def run_two(what, folder, **env):
    """Run two workers, and show what they printed if one of them fails."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **env}
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, what, str(rank), str(folder)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    return outputs


def make_samples(labels):
    return [
        SegDataSample(
            gt_sem_seg=PixelData(data=label),
            metainfo=dict(img_shape=tuple(label.shape[1:])),
        )
        for label in labels
    ]


@pytest.fixture
def jobs(tiny_model_cfg, zoo_case):
    """Models by name, whose layers do not see the batch.

    Configs; in JSON they lose nothing but the kind of lists.
    """
    gn = tiny_model_cfg(seg_head=dict(FCN, norm_cfg=GN))
    gn['backbone']['norm_cfg'] = GN
    attention = copy.deepcopy(gn)
    attention['train_cfg']['attention_only'] = True
    zoo = tiny_model_cfg(
        backbone=zoo_case['backbone'],
        seg_head=[dict(cfg, dropout_ratio=0) for cfg in zoo_case['seg_head']],
        decode_head=dict(norm_cfg=GN, loss_scale=MEAN),
    )
    zoo['train_cfg']['norm_eval'] = True
    if compat.torch_has('checkpointing'):
        zoo['train_cfg']['checkpoint'] = ['scales', 'backbone']
    graphed = copy.deepcopy(gn)
    graphed['train_cfg']['cuda_graph'] = True
    return dict(gn=gn, attention_only=attention, zoo=zoo, graphed=graphed)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('ddp')


def load_job(folder, cfg, name):
    job = torch.load(folder / f'{name}.pth')
    model = MODELS.build(ConfigDict(cfg)).train()
    model.load_state_dict(job['state_dict'])
    return model, job['inputs'], make_samples(job['labels'])


@pytest.fixture(autouse=True)
def _jobs_are_written(folder, jobs, make_batch):
    (folder / 'rendezvous').unlink(missing_ok=True)
    if not (folder / 'jobs.json').exists():
        write_jobs(folder, jobs, make_batch)


def write_jobs(folder, jobs, make_batch):
    (folder / 'jobs.json').write_text(json.dumps(jobs))
    inputs, samples = make_batch(batch_size=4)
    labels = torch.stack([s.gt_sem_seg.data for s in samples])
    for name, cfg in jobs.items():
        state = MODELS.build(ConfigDict(cfg)).state_dict()
        job = dict(state_dict=state, inputs=inputs, labels=labels)
        torch.save(job, folder / f'{name}.pth')


@with_hrnet
def test_gradients_of_the_joint_batch(folder, jobs):
    run_two('ddp', folder, CUDA_VISIBLE_DEVICES='')
    for name, cfg in jobs.items():
        model, *batch = load_job(folder, cfg, name)
        step(model, batch)
        found = torch.load(folder / f'{name}_gradients.pth')
        assert found.keys() == learned(model)
        if name == 'attention_only':
            assert all('scale_attn' in key for key in found)
        params = dict(model.named_parameters())
        found, expected = (
            torch.cat([grads[key].flatten().double() for key in sorted(found)])
            for grads in (found, {key: params[key].grad for key in found})
        )
        assert (found - expected).norm() < 1e-4 * expected.norm(), name


@pytest.mark.needs_torch('fsdp_on_cpu')
@with_hrnet
def test_fsdp_takes_a_step(folder, jobs):
    """By MMEngine's strategy: parameters are sharded, the step is equal."""
    run_two('fsdp', folder, CUDA_VISIBLE_DEVICES='')
    model, inputs, samples = load_job(folder, jobs['gn'], 'gn')
    # DefaultSampler deals images out in turns.
    data = dict(inputs=list(inputs), data_samples=samples)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    model.train_step(data, wrapper)
    results = [torch.load(folder / f'fsdp{rank}.pth') for rank in range(2)]
    size = sum(param.numel() for param in model.parameters())
    assert all(result['held'] < 0.6 * size for result in results)
    for name, param in model.named_parameters():
        for result in results:
            torch.testing.assert_close(
                result['after'][name], param, rtol=1e-4, atol=1e-6
            )


@pytest.mark.needs_torch('capture_mode')
@with_hrnet
def test_graphs_with_synchronised_statistics(
    tmp_path, tiny_model_cfg, make_batch
):
    """On two GPUs by NCCL where there are two, else by gloo and stand-ins."""
    norm_cfg = dict(type='SyncBN')
    cfg = tiny_model_cfg(seg_head=dict(FCN, norm_cfg=norm_cfg))
    cfg['backbone']['norm_cfg'] = norm_cfg
    write_jobs(tmp_path, dict(sync_bn=cfg), make_batch)
    run_two('sync_bn', tmp_path)
    for rank in range(2):
        text = (tmp_path / f'replays{rank}.json').read_text()
        replays, said = json.loads(text)
        assert replays == [0, 1, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5]
        captured, differ, failed, *hooks = said
        assert ['hooks of backbone' in line for line in hooks] == [True][rank:]
        assert 'captured' in captured
        assert 'other processes' in differ
        assert ('no memory' if rank else 'another process') in failed
