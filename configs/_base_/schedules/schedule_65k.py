# The authors' schedule: 175 epochs (scripts/train_cityscapes.yml: max_epoch)
# of ceil(2975 / 8) = 372 iterations are 65,100. They lower the learning rate
# once an epoch, here every iteration.
optim_wrapper = dict(
    type='OptimWrapper',
    # lr: train_cityscapes.yml; momentum and decay: defaults of train.py. One
    # parameter group, so norm layers and biases decay as well (optimizer.py).
    optimizer=dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=0.0001),
    clip_grad=None,
)
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=0.0,  # optimizer.py: no floor
        power=2.0,  # train_cityscapes.yml: poly_exp
        begin=0,
        end=65100,
        by_epoch=False,
    )
]

# Every 10 epochs; the authors validate after each (train.py: --val_freq 1).
train_cfg = dict(type='IterBasedTrainLoop', max_iters=65100, val_interval=3720)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=3720),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
