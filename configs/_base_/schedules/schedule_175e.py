# The authors' schedule for Cityscapes (NVIDIA/semantic-segmentation:
# scripts/train_cityscapes.yml, defaults of train.py, optimizer.py).
#
# Mixed precision is theirs, apex O1, as native AMP. With bfloat16 instead of
# float16: --cfg-options optim_wrapper.dtype=bfloat16
# In float32, and without a GPU: --cfg-options optim_wrapper.type=OptimWrapper
optim_wrapper = dict(
    type='AmpOptimWrapper',
    # lr: train_cityscapes.yml, for 8 images; momentum and decay: train.py.
    # One parameter group: norm layers and biases decay too (optimizer.py).
    optimizer=dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=0.0001),
    clip_grad=None,
)
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=0.0,  # optimizer.py: no floor
        power=2.0,  # train_cityscapes.yml: poly_exp
        begin=0,
        # One more than there are epochs: mmengine reaches zero in the last
        # one, the authors' (1 - epoch / 175) ** 2 only after it.
        end=176,
        by_epoch=True,  # optimizer.py: a step for each epoch
    )
]

# Every 5 epochs; the authors validate after each (train.py: --val_freq 1).
train_cfg = dict(
    type='EpochBasedTrainLoop',
    max_epochs=175,  # train_cityscapes.yml: max_epoch
    val_interval=5,
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='SafeCheckpointHook',
        by_epoch=True,
        interval=1,
        max_keep_ckpts=2,  # one is left if a crash spoils the other
        save_best='mIoU',  # train.py keeps the best and the last
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='ScaleMapsVisualizationHook'),
)
# For runs of days: stop before a loss that is not finite does harm, resume
# from the newest sound checkpoint, and end up where an uninterrupted run does.
custom_hooks = [dict(type='InvalidLossHook'), dict(type='IterSeedHook')]
runner_type = 'SafeResumeRunner'
randomness = dict(seed=0)
