"""One of two processes; `test_distributed.py` starts them.

Usage: distributed_worker.py {ddp,fsdp} RANK FOLDER. The folder holds the jobs
and takes the results.
"""

import json
import os
import sys
from pathlib import Path

from hmsa_mmseg.engine.process_groups import close_gloo  # first of all

# isort: split

sys.path.append(str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from mmengine.config import ConfigDict
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import FlexibleRunner
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from oracles.recorded_graph import RecordingOnCPU
from torch.distributed.fsdp import FullyShardedDataParallel

from hmsa_mmseg.models.utils.cuda_graph import GraphCache

WORLD_SIZE = 2


def make_samples(labels):
    return [
        SegDataSample(
            gt_sem_seg=PixelData(data=label),
            metainfo=dict(img_shape=tuple(label.shape[1:])),
        )
        for label in labels
    ]


def ddp(rank, folder):
    GraphCache.recorder_type = RecordingOnCPU
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/rendezvous',
        rank=rank,
        world_size=WORLD_SIZE,
    )
    jobs = json.loads((folder / 'jobs.json').read_text())
    for name, cfg in jobs.items():
        job = torch.load(folder / f'{name}.pth')
        model = MODELS.build(ConfigDict(cfg)).train()
        model.load_state_dict(job['state_dict'])
        half = slice(2 * rank, 2 * rank + 2)
        inputs, samples = (
            job['inputs'][half],
            make_samples(job['labels'][half]),
        )
        wrapper = MMDistributedDataParallel(model, broadcast_buffers=False)
        # A parameter without gradient is an error in the second forward, in
        # which a graph is captured.
        for _ in range(3):
            wrapper.zero_grad()
            losses = wrapper(inputs, samples, mode='loss')
            total, _ = model.parse_losses(losses)
            total.backward()
        if 'cuda_graph' in cfg['train_cfg']:
            assert len(model.training_graphs.graphs) == 1
        if rank == 0:
            gradients = {
                name: param.grad
                for name, param in model.named_parameters()
                if param.grad is not None
            }
            torch.save(gradients, folder / f'{name}_gradients.pth')

    dist.barrier()
    dist.destroy_process_group()


def fsdp(rank, folder):
    # What torchrun sets, but for the GPU, which mmengine takes from it.
    os.environ.update(RANK=str(rank), LOCAL_RANK='-1')
    os.environ.update(WORLD_SIZE=str(WORLD_SIZE))
    (name, cfg), *_ = json.loads((folder / 'jobs.json').read_text()).items()
    job = torch.load(folder / f'{name}.pth')
    model = MODELS.build(ConfigDict(cfg))
    model.load_state_dict(job['state_dict'])
    model.is_init = True  # the runner shall not make other weights
    samples = make_samples(job['labels'])
    runner = FlexibleRunner(
        model=model,
        work_dir=str(folder / 'work_dir'),
        train_dataloader=dict(
            dataset=[
                dict(inputs=image, data_samples=sample)
                for image, sample in zip(job['inputs'], samples)
            ],
            batch_size=len(samples) // WORLD_SIZE,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        strategy=dict(
            type='FSDPStrategy', model_wrapper=dict(device_id='cpu')
        ),
        default_hooks=dict(checkpoint=None),
        launcher='pytorch',
        env_cfg=dict(
            dist_cfg=dict(
                backend='gloo',
                init_method=f'file://{folder}/rendezvous',
                rank=rank,
                world_size=WORLD_SIZE,
            )
        ),
        default_scope='mmseg',
        experiment_name='fsdp',
    )
    runner.train()
    assert isinstance(runner.model, FullyShardedDataParallel)
    held = sum(param.numel() for param in runner.model.parameters())
    with FullyShardedDataParallel.summon_full_params(runner.model):
        after = {
            name: param.detach().clone()
            for name, param in runner.model.module.named_parameters()
        }
    torch.save(dict(after=after, held=held), folder / f'fsdp{rank}.pth')


if __name__ == '__main__':
    torch.set_num_threads(1)
    register_all_modules(init_default_scope=True)
    run = dict(ddp=ddp, fsdp=fsdp)[sys.argv[1]]
    run(int(sys.argv[2]), Path(sys.argv[3]))
    # Left to the interpreter, threads of gloo may abort the process.
    close_gloo()
