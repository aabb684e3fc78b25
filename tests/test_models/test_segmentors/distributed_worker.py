"""One of two processes; `test_distributed.py` starts them.

Usage: distributed_worker.py {ddp,fsdp,sync_bn} RANK FOLDER. The folder holds
the jobs and takes the results.
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
from torch.distributed.nn import all_reduce

from hmsa_mmseg.compat import torch_has
from hmsa_mmseg.models.utils import cuda_graph
from hmsa_mmseg.models.utils.captured_graph import CapturedGraph
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
        if 'cuda_graph' in cfg['train_cfg'] and torch_has('capture_mode'):
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


class SyncBNOnCPU(torch.nn.SyncBatchNorm):
    """In the place of torch's, which has no version for the CPU."""

    def forward(self, x):
        found = torch.stack([x.mean((0, 2, 3)), (x * x).mean((0, 2, 3))])
        mean, square = all_reduce(found) / WORLD_SIZE
        var = square - mean**2
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        x = (x - mean[:, None, None]) / (var[:, None, None] + self.eps).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def sync_bn(rank, folder):
    """A graph with collectives: loss and gradients are those without one."""
    device = 'cpu'
    if torch.cuda.device_count() >= WORLD_SIZE:
        torch.cuda.set_device(rank)
        device = 'cuda'
    else:
        GraphCache.recorder_type = RecordingOnCPU
        # It refuses SyncBN on a CPU.
        MMDistributedDataParallel._passing_sync_batchnorm_handle = (
            lambda *args: None
        )
    dist.init_process_group(
        'nccl' if device == 'cuda' else 'gloo',
        init_method=f'file://{folder}/rendezvous',
        rank=rank,
        world_size=WORLD_SIZE,
    )
    cfg = json.loads((folder / 'jobs.json').read_text())['sync_bn']
    job = torch.load(folder / 'sync_bn.pth')
    eager, graphed = (MODELS.build(ConfigDict(cfg)).train() for _ in range(2))
    graphed.train_cfg = {**graphed.train_cfg, 'cuda_graph': True}
    wrappers = []
    for model in (eager, graphed):
        model.load_state_dict(job['state_dict'])
        for module in model.modules() if device == 'cpu' else ():
            if isinstance(module, torch.nn.SyncBatchNorm):
                module.__class__ = SyncBNOnCPU
        wrappers.append(
            MMDistributedDataParallel(
                model.to(device), broadcast_buffers=False
            )
        )
    said, replays, capture = [], [], GraphCache._capture
    cuda_graph._warn = said.append
    replay = CapturedGraph.replay

    def counted(self, inputs):
        replays.append(self)
        return replay(self, inputs)

    CapturedGraph.replay = counted

    def fails_once(self, *args):
        """On one rank, and not for lack of trying."""
        error = capture(self, *args)
        return 'no memory' if rank == 1 and fails.pop() else error

    GraphCache._capture = fails_once
    fails, counts = [True, False], []
    # Images of each rank: the same kind but in the fifth step; twice two
    # rows fewer, whose capture fails. In the end one has a hook.
    sizes = [(0, 0)] * 4 + [(0, 8), (0, 0), (8, 8), (8, 8), (8, 8), (0, 0)]
    for i, cut in enumerate([*sizes, (0, 0), (0, 0), (0, 0)]):
        if i == len(sizes) and rank == 0:
            graphed.backbone.register_forward_hook(lambda *args: None)
        height = job['inputs'].shape[2] - cut[rank]
        half = slice(2 * rank, 2 * rank + 2)
        inputs = job['inputs'][half, :, :height].to(device)
        samples = make_samples(job['labels'][half, :, :height].to(device))
        found = []
        for wrapper in wrappers:
            wrapper.zero_grad()
            losses = wrapper(inputs, samples, mode='loss')
            total, _ = wrapper.module.parse_losses(losses)
            total.backward()
            found.append(
                [total.detach()]
                + [param.grad for param in wrapper.parameters()]
                + list(wrapper.buffers())
            )
        counts.append(len(replays))
        if device == 'cpu':
            assert all(map(torch.equal, *found))
        else:
            for one, other in zip(*found):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    (folder / f'replays{rank}.json').write_text(json.dumps([counts, said]))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == '__main__':
    torch.set_num_threads(1)
    register_all_modules(init_default_scope=True)
    run = dict(ddp=ddp, fsdp=fsdp, sync_bn=sync_bn)[sys.argv[1]]
    run(int(sys.argv[2]), Path(sys.argv[3]))
    # Left to the interpreter, threads of gloo may abort the process.
    close_gloo()
