"""Runs that would be wrong in silence, as a user of mmseg starts them."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import MMSegInferencer

from hmsa_mmseg import cli
from hmsa_mmseg.datasets import LoadSegLabels, class_and_pipeline_checks
from hmsa_mmseg.datasets.transforms import load_seg_labels

CLASSES = ('road', 'tree', 'sky')
PARTS = dict(train=3, val=2)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Images and masks of three classes, in the layout of the guide."""
    root = tmp_path_factory.mktemp('folder')
    rng = np.random.default_rng(0)
    for part, number in PARTS.items():
        for kind in ('images', 'masks'):
            (root / kind / part).mkdir(parents=True)
        for k in range(number):
            mask = np.full((64, 128), 2, np.uint8)
            mask[32:] = 0
            mask[16:40, 30 * k : 30 * k + 30] = 1
            colours = np.array([[90, 60, 90], [40, 140, 60], [200, 150, 90]])
            image = colours[mask] + rng.integers(-20, 20, (64, 128, 3))
            name = f'{part}/{k}.png'
            cv2.imwrite(str(root / 'images' / name), image)
            cv2.imwrite(str(root / 'masks' / name), mask)
    return root


@pytest.fixture
def make_config(config_file, folder, tmp_path):
    """Return a function for the config of a short run on the folder."""

    def make(classes=CLASSES, outputs=3, steps=None, **options):
        cfg = Config.fromfile(config_file)
        labels = dict(type='LoadSegLabels', num_classes=outputs)
        pipeline = dict(
            train=[labels], val=[dict(type='Resize', scale=(128, 64)), labels]
        )
        pipeline.update(steps or {})
        for key, part in dict(train='train', val='val', test='val').items():
            cfg[f'{key}_dataloader'].dataset = dict(
                type='HMSAFolderDataset',
                classes=classes,
                data_root=str(folder),
                data_prefix=dict(
                    img_path=f'images/{part}', seg_map_path=f'masks/{part}'
                ),
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    *pipeline[part],
                    dict(type='PackSegInputs'),
                ],
            )
        for head in cfg.model.decode_head.seg_head:
            head.num_classes = outputs
        cfg.train_cfg.update(max_iters=2, val_interval=2)
        cfg.work_dir = str(tmp_path / 'work')
        cfg.experiment_name = f'{tmp_path.name}_{len(options)}'
        cfg.merge_from_dict(options)
        return cfg

    return make


@pytest.fixture
def trained_folder(make_config, tmp_path):
    """The checkpoint of a run of two iterations."""
    cfg = make_config()
    Runner.from_cfg(cfg).train()
    return tmp_path / 'work' / 'iter_2.pth'


def resized(size):
    return dict(type='Resize', scale=size)


LABELS = dict(type='LoadSegLabels', num_classes=3)
BEFORE = 'comes before LoadSegLabels in a training pipeline'


@pytest.mark.parametrize(
    ('changed', 'match'),
    [
        (dict(classes=CLASSES[:2]), r'has 2 classes \(road, tree\)'),
        (dict(classes=(*CLASSES, 'car')), 'has 4 classes'),
        (dict(classes=('road', 'tree', 'road')), "'road' more than once"),
        (dict(outputs=5), 'has 3 classes .* num_classes=5'),
        (
            dict(steps=dict(train=[dict(LABELS, num_classes=5)])),
            'LoadSegLabels has num_classes=5, the decode head 3',
        ),
        (
            dict(steps=dict(train=[resized((256, 128)), LABELS])),
            f'Resize {BEFORE}',
        ),
        (
            dict(
                steps=dict(train=[dict(type='RandomFlip', prob=1.0), LABELS])
            ),
            f'RandomFlip {BEFORE}',
        ),
        (
            dict(
                steps=dict(
                    train=[
                        LABELS,
                        resized((256, 128)),
                        dict(type='ApplyConfidence'),
                    ]
                )
            ),
            'Resize comes before ApplyConfidence',
        ),
        (
            {
                'model.decode_head.seg_head.1.loss_decode': dict(
                    _delete_=True, type='FocalLoss'
                )
            },
            r'decode_head\.seg_head\.1\.loss_decode: FocalLoss .* on cpu',
        ),
        (
            {'model.data_preprocessor.size': None},
            'data_preprocessor: size=None, size_divisor=None; expected one',
        ),
        (
            dict(
                steps=dict(
                    train=[
                        LABELS,
                        dict(
                            type='RandomResize',
                            scale=(128, 64),
                            ratio_range=(1.0, 3.0),
                            keep_ratio=True,
                        ),
                    ]
                )
            ),
            r'train/\d\.png: .*data_preprocessor\.size=\(64, 128\) pads',
        ),
        (
            dict(
                steps=dict(
                    train=[LABELS, dict(type='RandomCrop', crop_size=(4, 4))]
                ),
                **{
                    'model.data_preprocessor.size': (4, 4),
                    'train_dataloader.batch_size': 1,
                },
            ),
            r'backbone\.bn1, BatchNorm2d: Expected more .* larger batch',
        ),
        ({'train_cfg.max_iters': 0}, 'max_iters=0: there is nothing to train'),
        (
            {
                'optim_wrapper.accumulative_counts': 2,
                'default_hooks.checkpoint.interval': 1,
            },
            'expected a multiple of optim_wrapper.accumulative_counts=2',
        ),
    ],
)
@pytest.mark.fault(
    'data set, labels or head with another number of classes, a name twice',
    'refused before the first iteration, with both lists',
)
@pytest.mark.fault(
    'an image is resized or flipped before its label or confidence is loaded',
    'refused before the first iteration, with both steps',
)
@pytest.mark.fault(
    'FocalLoss of mmseg on a CPU',
    'refused before the first iteration, with its place and other losses',
)
@pytest.mark.fault(
    'a data preprocessor without size and size_divisor',
    'refused before the first iteration',
)
@pytest.mark.fault(
    'training images larger than the size of the data preprocessor',
    'an error with the path, both sizes and the step that cuts',
)
@pytest.mark.fault(
    'batch normalisation over a single value',
    'an error with the name of the layer and what helps',
)
@pytest.mark.fault(
    'max_iters=0',
    'refused: there is nothing to train',
)
@pytest.mark.fault(
    'a checkpoint interval within summed gradients',
    'refused, with what would fit',
)
def test_training_that_is_refused(make_config, changed, match):
    runner = Runner.from_cfg(make_config(**changed))
    with pytest.raises(ValueError, match=match):
        runner.train()


@pytest.mark.fault(
    'SyncBN on several CPUs',
    'an error with the name of the layer and what to take',
)
def test_synchronised_statistics_without_a_gpu(make_config, monkeypatch):
    norm = make_config().model.backbone.norm_cfg
    model = Runner.from_cfg(
        make_config(**{'model.backbone.norm_cfg': dict(norm, type='SyncBN')})
    ).model

    def refuse(*args):
        raise ValueError('SyncBatchNorm expected input tensor to be on GPU')

    # As in a group of processes.
    monkeypatch.setattr(type(model.backbone.bn1), 'forward', refuse)
    with pytest.raises(ValueError, match=r"norm_cfg=dict\(type='BN'\)"):
        model(torch.zeros(1, 3, 8, 8), [], mode='loss')


@pytest.mark.fault(
    'data sets of other classes in ConcatDataset',
    'refused, with what differs, and where',
)
def test_data_sets_that_cannot_be_concatenated(make_config):
    cfg = make_config()
    one = cfg.train_dataloader.dataset
    other = {**one, 'classes': ('road', 'sky', 'tree')}
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[one, one, other]
    )
    match = r'classes of datasets\[0\] and datasets\[2\] differ: .*tree.*sky'
    with pytest.raises(ValueError, match=match):
        Runner.from_cfg(cfg).train()


@pytest.mark.fault(
    'binary cross-entropy of a batch without a labelled pixel',
    'a loss of 0, and training goes on',
)
def test_a_binary_model_without_labels(make_config):
    ignored = dict(
        type='LoadSegLabels', num_classes=2, label_map={0: 255, 1: 255, 2: 255}
    )
    steps = dict(train=[ignored], val=[resized((128, 64)), ignored])
    cfg = make_config(CLASSES[:2], 2, steps)
    for head in cfg.model.decode_head.seg_head:
        head.update(out_channels=1, threshold=0.4)
        head.loss_decode.use_sigmoid = True
    cfg.model.decode_head.loss_scale.use_sigmoid = True
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    assert runner.message_hub.get_scalar('train/loss').current() == 0


def test_classes_that_differ_on_purpose(make_config):
    """Two names for three outputs: the third is never trained."""
    key = 'default_hooks.checkpoint.check_classes'
    cfg = make_config(outputs=5, **{key: False})
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2


def damage(path, how):
    """Damage a checkpoint; return the path of the new one."""
    bad = path.with_name(f'{how}.pth')
    state = torch.load(path, weights_only=True)
    weights = state['state_dict']
    first = weights['backbone.conv1.weight']
    if how == 'flipped':
        content = bytearray(path.read_bytes())
        at = bytes(content).find(first.numpy().tobytes())
        content[at + 3] ^= 0x40  # Of the exponent.
        bad.write_bytes(content)
        return bad
    if how == 'cut':
        bad.write_bytes(path.read_bytes()[:-1000])
        return bad
    if how == 'program':
        state['meta']['program'] = Program(path.with_name('ran'))
    elif how == 'missing':
        del weights['backbone.conv1.weight']
    else:
        first[0] = torch.nan
    torch.save(state, bad)
    return bad


DAMAGES = dict(
    flipped='flipped.pth: it is damaged',
    cut='cut.pth: it is damaged',
    missing='lacks 1 of the weights of the model, such as backbone.conv1',
    nan='NaN or infinity',
    program='which is not loaded, as that could run code',
)


class Program:
    """What makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.fault(
    'a flipped bit in a checkpoint: test.py, inferencer, load_from',
    'refused by its checksum',
)
@pytest.mark.fault(
    'a checkpoint cut short: test.py, inferencer, load_from',
    'refused, with its path and size',
)
@pytest.mark.fault(
    'a checkpoint that lacks a weight: test.py, inferencer',
    'refused, with the name; a training may start from it',
)
@pytest.mark.fault(
    'NaN in a checkpoint: test.py, inferencer, load_from',
    'refused, with the name of the weight',
)
@pytest.mark.fault(
    'a program in a checkpoint: test.py, inferencer, load_from',
    'refused and not run',
)
def test_checkpoints_that_are_not_whole(
    make_config, trained_folder, folder, tmp_path
):
    """test.py and the inferencer refuse them; a training starts from some."""
    config = tmp_path / 'config.py'
    make_config().dump(config)
    image = str(folder / 'images/val/0.png')
    for how, match in DAMAGES.items():
        bad = str(damage(trained_folder, how))
        runner = Runner.from_cfg(make_config(load_from=bad))
        with pytest.raises(ValueError, match=match):
            runner.test()
        with pytest.raises(ValueError, match=match):
            MMSegInferencer(str(config), bad, device='cpu')(image)
        if how != 'missing':
            runner = Runner.from_cfg(make_config(load_from=bad))
            with pytest.raises(ValueError, match=match):
                runner.train()
    assert not trained_folder.with_name('ran').exists()


@pytest.mark.fault(
    'a checkpoint of the same classes in another order, or of others',
    'refused in a test and when resuming, with both lists',
)
@pytest.mark.fault(
    'Pad in the pipeline of a test',
    'refused: predictions would be stretched',
)
def test_tests_that_are_refused(make_config, trained_folder, folder):
    order = ('sky', 'tree', 'road')
    padded = [resized((128, 64)), dict(type='Pad', size=(256, 256)), LABELS]
    for changed, match in (
        (dict(classes=order), 'in another order: sky, tree, road'),
        (dict(classes=('a', 'b', 'c')), 'others: a, b, c'),
        (dict(steps=dict(val=padded)), 'Pad in the pipeline of a test'),
    ):
        cfg = make_config(load_from=str(trained_folder), **changed)
        with pytest.raises(ValueError, match=match):
            Runner.from_cfg(cfg).test()
    # Other names are no error of a training that starts from the weights.
    cfg = make_config(load_from=str(trained_folder), classes=('a', 'b', 'c'))
    Runner.from_cfg(cfg).train()
    for changed, match in (
        (dict(classes=('b', 'a', 'c')), 'in another order'),
        (
            dict(
                classes=('a', 'b', 'c'),
                **{'model.decode_head.attn_channels': 16},
            ),
            'has 8 channels .* of the model 16; set .*attn_channels=8',
        ),
    ):
        with pytest.raises(ValueError, match=match):
            Runner.from_cfg(make_config(resume=True, **changed)).train()


@pytest.mark.fault(
    'SegTTAModel with one output channel',
    'refused: it would take the sigmoid twice',
)
def test_flips_of_one_output_channel(make_config):
    """SegTTAModel would take the sigmoid of a probability."""
    cfg = make_config(classes=CLASSES[:2], outputs=2)
    for head in cfg.model.decode_head.seg_head:
        head.update(out_channels=1, threshold=0.4)
    cfg.model = dict(type='SegTTAModel', module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    with pytest.raises(ValueError, match='AccumulatingTTAModel'):
        Runner.from_cfg(cfg).test()


@pytest.mark.fault(
    'an image of 0 bytes in training',
    'an error with its path',
)
def test_an_empty_image_is_named(make_config, folder):
    path = folder / 'images/train/0.png'
    content = path.read_bytes()
    path.write_bytes(b'')
    try:
        # In a worker, too, which starts before any hook is called, and with
        # data set and loop of mmseg and mmengine.
        for workers, loop in (
            (0, 'ResumableIterBasedTrainLoop'),
            (1, 'ResumableIterBasedTrainLoop'),
            (1, 'IterBasedTrainLoop'),
        ):
            cfg = make_config(
                **{
                    'train_dataloader.num_workers': workers,
                    'train_cfg.type': loop,
                }
            )
            cfg.experiment_name += f'_{workers}_{loop}'
            dataset = cfg.train_dataloader.dataset
            if loop == 'IterBasedTrainLoop':
                classes = dict(classes=dataset.pop('classes'))
                dataset.update(
                    type='BaseSegDataset',
                    metainfo=classes,
                    img_suffix='.png',
                    seg_map_suffix='.png',
                )
            with pytest.raises(ValueError, match=r'0\.png: the data'):
                Runner.from_cfg(cfg).train()
    finally:
        path.write_bytes(content)


@pytest.mark.fault(
    'binary masks of 0 and 255',
    'a warning, with the label_map that helps',
)
def test_masks_of_0_and_255(tmp_path, monkeypatch):
    path = str(tmp_path / 'mask.png')
    cv2.imwrite(path, np.array([[0, 255]], np.uint8))
    said = []
    monkeypatch.setattr(
        load_seg_labels, 'print_log', lambda text, **_: said.append(text)
    )
    load = LoadSegLabels(num_classes=2)
    for _ in range(2):
        load(dict(seg_map_path=path))
    (warning,) = said
    assert 'label_map={0: 0, 255: 1}' in warning
    mapped = LoadSegLabels(num_classes=2, label_map={0: 0, 255: 1})
    assert mapped(dict(seg_map_path=path))['gt_seg_map'].tolist() == [[0, 1]]


@pytest.mark.fault(
    'EMAHook with InferencePreparationHook',
    'the averaged weights are tested',
)
def test_averaged_weights_are_prepared_for_a_test(make_config, tmp_path):
    """EMAHook exchanges weights that the preparation would have folded."""
    ema = dict(type='EMAHook')
    Runner.from_cfg(make_config(custom_hooks=[ema])).train()
    scores = []
    for number, hooks in enumerate(
        ([], [dict(type='InferencePreparationHook')])
    ):
        cfg = make_config(
            load_from=str(tmp_path / 'work/iter_2.pth'),
            custom_hooks=[ema, *hooks],
        )
        cfg.experiment_name += f'_{number}'
        scores.append(Runner.from_cfg(cfg).test()['mIoU'])
    assert scores[0] == pytest.approx(scores[1], abs=0.5)


@pytest.mark.fault(
    'two trainings in one folder',
    'the second is refused; a lock left by a kill does not count',
)
def test_one_training_in_a_folder(hold_lock, make_config, tmp_path):
    work_dir = tmp_path / 'work'
    holder = hold_lock(work_dir / '.training.lock', 'training')
    match = f'in use by training, process {holder.pid} on'
    with pytest.raises(RuntimeError, match=match):
        Runner.from_cfg(make_config()).train()
    assert not [*work_dir.glob('*.pth')]
    holder.kill()
    holder.communicate()
    # What a process that was killed leaves behind locks nothing.
    assert (work_dir / '.training.lock').exists()
    cfg = make_config()
    cfg.experiment_name += '_again'
    Runner.from_cfg(cfg).train()
    assert (work_dir / 'iter_2.pth').exists()
    assert not (work_dir / '.training.lock').exists()


@pytest.mark.fault(
    'memory runs out, forward or backward',
    'the error has the sizes, scales and what takes less',
)
def test_out_of_memory(make_config, monkeypatch):
    """Where memory runs out, the sizes and what takes less are said."""
    cfg = make_config()
    shape = r'2 images of 64x128 .*scales \(0.5, 1.0\).*train_cfg.checkpoint'
    runner = Runner.from_cfg(cfg)
    segmentor = runner.model

    def exhausted(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory.')

    monkeypatch.setattr(segmentor.backbone, 'forward', exhausted)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=shape):
        runner.train()
    runner = Runner.from_cfg(make_config(work_dir=f'{cfg.work_dir}_2'))
    monkeypatch.setattr(torch.Tensor, 'backward', exhausted)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=shape):
        runner.train()
    monkeypatch.setattr(runner.model.backbone, 'forward', exhausted)
    with pytest.raises(RuntimeError, match='The batch has 1 images'):
        runner.test()


@pytest.mark.fault(
    'class-uniform sampling with RandomCrop',
    'a warning',
)
def test_crops_that_do_not_look_for_classes(make_config, monkeypatch):
    said = []
    monkeypatch.setattr(
        class_and_pipeline_checks,
        'print_log',
        lambda text, **_: said.append(text),
    )
    crop = dict(type='RandomCrop', crop_size=(32, 64))
    cfg = make_config(steps=dict(train=[LABELS, crop]))
    loader = cfg.train_dataloader
    loader.dataset = dict(type='ClassUniformDataset', dataset=loader.dataset)
    loader.sampler = dict(type='ClassUniformSampler', infinite=True)
    Runner.from_cfg(cfg).train()
    (warning,) = said
    assert 'expected CentroidRandomCrop' in warning


COMMANDS = {
    'infer': 'infer CONFIG FILE images --out out',
    'label': 'label CONFIG FILE images out',
    'export': 'export CONFIG FILE --out a.onnx --size 64 128',
    'convert': 'convert FILE a.pth',
    'from-zoo': 'from-zoo fcn_r50-d8_4xb2-40k_cityscapes-512x1024 FILE',
    'test': 'test CONFIG FILE',
    'publish': 'publish FILE a.pth',
    'train': 'train CONFIG --cfg-options load_from=FILE',
    'flops': 'flops FILE',
    'browse': 'browse FILE --output-dir out --not-show',
    'confusion': 'confusion FILE . out',
    'centroids': 'centroids FILE',
    'report': 'report FILE',
    'masks': 'masks FILE out --table FILE',
    'add-attention': 'add-attention FILE a.pth',
}


@pytest.fixture
def run_command(monkeypatch, tmp_path, capsys):
    """Return a function that gives status and errors of a command."""
    monkeypatch.setattr(sys, 'argv', ['hmsa'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    cv2.imwrite('images/0.png', np.zeros((64, 128, 3), np.uint8))

    def run(argv):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(argv)
        code = ended.value.code
        said = capsys.readouterr().err
        return f'{said}{code}' if isinstance(code, str) else said

    return run


@pytest.mark.parametrize('command', cli.COMMANDS)
@pytest.mark.fault(
    'a checkpoint or config that does not exist: each command',
    'an error in a line, with the path',
)
def test_files_that_are_not_there(run_command, make_config, tmp_path, command):
    make_config().dump(tmp_path / 'config.py')
    (tmp_path / 'folder.pth').mkdir()
    files = ['no.py' if 'CONFIG' not in COMMANDS[command] else 'no.pth']
    if '.pth' in COMMANDS[command] or 'CONFIG' in COMMANDS[command]:
        files.append('folder.pth')
    for file in files:
        line = COMMANDS[command].replace('FILE', file)
        said = run_command(line.replace('CONFIG', 'config.py').split())
        assert file in said
        assert 'Traceback' not in said


@pytest.mark.parametrize('command', ['train', 'test', 'infer', 'flops'])
@pytest.mark.fault(
    'a config that has no model, or is no program',
    'an error in a line, with the path',
)
def test_configs_that_are_none(run_command, tmp_path, command):
    for text, match in (('a = (', 'SyntaxError'), ('a = 1', 'model=None')):
        (tmp_path / 'bad.py').write_text(text)
        line = COMMANDS[command].replace('CONFIG', 'bad.py')
        said = run_command(line.replace('FILE', 'bad.py').split())
        assert 'bad.py' in said
        assert match in said
        assert 'Traceback' not in said


@pytest.mark.fault(
    'an error that nothing foresaw: each command',
    'its trace, and at last the command with its files',
)
def test_errors_that_nothing_foresaw(run_command, make_config, tmp_path):
    cfg = make_config(**{'optim_wrapper.optimizer.lr': 'fast'})
    cfg.dump(tmp_path / 'config.py')
    said = run_command(['train', 'config.py'])
    assert 'Traceback' in said
    assert 'error: hmsa train config.py: ' in said.splitlines()[-1]
