"""Class-uniform sampling in mmseg's train.py; resuming: test_long_runs.py."""

from mmengine.config import Config

from hmsa_mmseg.datasets.centroid_file import read_rows


def test_two_processes(run_tool, config_file, tmp_path):
    cfg = Config.fromfile(config_file)
    loader = cfg.train_dataloader
    loader.num_workers = 1
    loader.persistent_workers = True
    loader.drop_last = True
    loader.sampler = dict(
        type='ClassUniformSampler',
        pct=1.0,
        tile_size=32,
        cache_dir=str(tmp_path / 'cache'),
    )
    crop = dict(type='CentroidRandomCrop', crop_size=(64, 128))
    loader.dataset.pipeline[3] = crop
    many = dict(type='RepeatDataset', times=5, dataset=loader.dataset)
    loader.dataset = dict(type='ClassUniformDataset', dataset=many)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=2)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint.update(by_epoch=True, interval=1)
    cfg.log_processor.by_epoch = True
    config = tmp_path / 'config.py'
    cfg.dump(config)
    out = run_tool(
        *('train.py', config, '--work-dir', tmp_path / 'out'),
        cwd=tmp_path,
        two_ranks=True,
    )
    # 20 samples, 10 for each process, in batches of 2.
    assert '[2][5/5]' in out
    assert (tmp_path / 'out' / 'epoch_2.pth').exists()
    assert 'no label has a pixel of these classes' in out
    (index,) = (tmp_path / 'cache').iterdir()
    assert {*read_rows(index)[:, 0].tolist()} == {0, 1, 2, 3}
