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
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from test_models.cases import BN, CE, FCN, learned

from hmsa_mmseg import compat

WORKER = Path(__file__).with_name('distributed_worker.py')
CONFIGS = Path(__file__).parents[3] / 'configs'
GN = dict(type='GN', num_groups=2)
with_hrnet = pytest.mark.parametrize(
    'zoo_case', ['hrnet_fcn-ocr'], indirect=True
)


def run_two(what, folder):
    """Run two workers, and show what they printed if one of them fails."""
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
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


def head(norm_cfg=GN, **loss):
    return dict(FCN, norm_cfg=norm_cfg, loss_decode=dict(CE, **loss))


def make_samples(labels):
    return [
        SegDataSample(
            gt_sem_seg=PixelData(data=label),
            metainfo=dict(img_shape=tuple(label.shape[1:])),
        )
        for label in labels
    ]


def make_cfgs(tiny_model_cfg, zoo_case):
    """Models by name; in JSON they lose nothing but the kind of lists."""
    gn = tiny_model_cfg(seg_head=head())
    gn['backbone']['norm_cfg'] = GN
    mean = tiny_model_cfg(seg_head=head(avg_non_ignore=True))
    mean['backbone']['norm_cfg'] = GN
    attention = copy.deepcopy(gn)
    attention['train_cfg']['attention_only'] = True
    zoo = tiny_model_cfg(
        backbone=zoo_case['backbone'],
        seg_head=[dict(cfg, dropout_ratio=0) for cfg in zoo_case['seg_head']],
        decode_head=dict(loss_scale=dict(CE, loss_weight=0.05)),
    )
    if compat.torch_has('checkpointing'):
        zoo['train_cfg']['checkpoint'] = ['scales', 'backbone']
    return dict(
        gn=gn,
        mean_of_equal_counts=mean,
        mean_of_other_counts=mean,
        batch_norm=tiny_model_cfg(seg_head=head(BN)),
        fixed_bn_checkpointed=zoo,
        attention_only=attention,
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('ddp')


@pytest.fixture
def jobs(folder, tiny_model_cfg, zoo_case, make_batch):
    """Models, batches of four, and what two processes made of them."""
    cfgs = make_cfgs(tiny_model_cfg, zoo_case)
    if not (folder / 'jobs.json').exists():
        (folder / 'jobs.json').write_text(json.dumps(cfgs))
        for name, cfg in cfgs.items():
            inputs, samples = make_batch(batch_size=4)
            labels = torch.stack([s.gt_sem_seg.data for s in samples])
            if name != 'mean_of_equal_counts':
                labels[0, :, 20:] = 255
            job = dict(
                state_dict=MODELS.build(ConfigDict(cfg)).state_dict(),
                inputs=inputs,
                labels=labels,
                fixed_bn=name.startswith('fixed_bn'),
            )
            torch.save(job, folder / f'{name}.pth')
        run_two('ddp', folder)
    return cfgs


@pytest.fixture
def gradients(folder, jobs):
    """Return a function: those of DDP, the joint batch, and each half."""

    def compute(name):
        job = torch.load(folder / f'{name}.pth')

        def alone(part):
            model = MODELS.build(ConfigDict(jobs[name])).train()
            model.load_state_dict(job['state_dict'])
            for layer in model.modules():
                if isinstance(layer, torch.nn.BatchNorm2d) and job['fixed_bn']:
                    layer.eval()
            total, _ = model.parse_losses(
                model.loss(
                    job['inputs'][part], make_samples(job['labels'][part])
                )
            )
            total.backward()
            params = dict(model.named_parameters())
            return {key: params[key].grad for key in learned(model)}

        found = torch.load(folder / f'{name}_gradients.pth')
        halves = [alone(slice(0, 2)), alone(slice(2, 4))]
        mean = {key: (halves[0][key] + halves[1][key]) / 2 for key in found}
        return found, alone(slice(0, 4)), mean

    return compute


def distance(found, expected):
    assert found.keys() == expected.keys()
    found, expected = (
        torch.cat([grads[key].flatten().double() for key in sorted(grads)])
        for grads in (found, expected)
    )
    return float((found - expected).norm() / expected.norm())


@with_hrnet
@pytest.mark.parametrize(
    'name',
    ['gn', 'mean_of_equal_counts', 'fixed_bn_checkpointed', 'attention_only'],
)
def test_gradients_of_the_joint_batch(name, gradients):
    found, joint, _ = gradients(name)
    assert distance(found, joint) < 1e-4
    attention = {key for key in found if 'scale_attn' in key}
    assert attention
    assert (found.keys() == attention) == (name == 'attention_only')


@with_hrnet
@pytest.mark.parametrize('name', ['mean_of_other_counts', 'batch_norm'])
def test_mean_of_the_processes_where_the_joint_batch_differs(name, gradients):
    """Means over a process's own pixels: valid ones, or those BN sees."""
    found, joint, mean = gradients(name)
    assert distance(found, mean) < 1e-4
    assert distance(found, joint) > 1e-2


@pytest.mark.needs_torch('fsdp_on_cpu')
@with_hrnet
def test_fsdp_takes_a_step(folder, jobs):
    """By MMEngine's strategy: parameters are sharded, the step is equal."""
    (folder / 'rendezvous').unlink(missing_ok=True)
    run_two('fsdp', folder)
    job = torch.load(folder / 'gn.pth')
    model = MODELS.build(ConfigDict(jobs['gn']))
    model.load_state_dict(job['state_dict'])
    samples = make_samples(job['labels'])
    # DefaultSampler deals images out in turns.
    data = dict(inputs=list(job['inputs']), data_samples=samples)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    model.train().train_step(data, wrapper)
    results = [torch.load(folder / f'fsdp{rank}.pth') for rank in range(2)]
    size = sum(param.numel() for param in model.parameters())
    assert all(result['held'] < 0.6 * size for result in results)
    for name, param in model.named_parameters():
        for result in results:
            torch.testing.assert_close(
                result['after'][name], param, rtol=1e-4, atol=1e-6
            )


def distinct_models():
    """One config of each model, those of variants being the same."""
    found = {}
    for path in sorted(CONFIGS.rglob('*.py')):
        if '_base_' not in path.parts:
            model = Config.fromfile(path).model.to_dict()
            model['data_preprocessor'] = None
            found.setdefault(json.dumps(model, sort_keys=True), path)
    return sorted(found.values())


@pytest.mark.parametrize('path', distinct_models(), ids=lambda path: path.stem)
def test_no_parameter_of_a_config_goes_unused(path, make_batch):
    """DDP would need `find_unused_parameters`, which costs time."""
    cfg = Config.fromfile(path)
    assert not cfg.get('find_unused_parameters')
    if cfg.model.backbone.type == 'TIMMBackbone':
        pytest.importorskip('timm')
    cfg.model.pretrained = None
    cfg.model.backbone.pop('init_cfg', None)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    inputs, samples = make_batch(num_classes=model.num_classes)
    total, _ = model.parse_losses(model.loss(inputs, samples))
    total.backward()
    unused = {
        name
        for name, param in model.named_parameters()
        if param.requires_grad and param.grad is None
    }
    assert unused == set()
