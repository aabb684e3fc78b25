# The demo's schedule, for two CPU cores: the zoo's SGD and poly decay, with
# ten times its lr, as the weights are random and the iterations few.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0005),
    clip_grad=None,
)
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=1e-4,
        power=0.9,
        begin=0,
        end=1000,
        by_epoch=False,
    )
]

# One validation at the end: the demo selects nothing by it.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Often enough that little is lost when the demo is interrupted.
    checkpoint=dict(
        type='SafeCheckpointHook',
        by_epoch=False,
        interval=100,
        max_keep_ckpts=2,  # one is left if a kill spoils the other
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='ScaleMapsVisualizationHook'),
)
randomness = dict(seed=0)
