# The authors' schedule for Mapillary Vistas (NVIDIA/semantic-segmentation):
# 200 epochs (scripts/train_mapillary.yml: max_epoch) of 18000 images in
# batches of 16 are 225,000 iterations. They lower the learning rate once an
# epoch, here every iteration.
optim_wrapper = dict(
    type='OptimWrapper',
    # lr: train_mapillary.yml; momentum and decay: defaults of train.py. One
    # parameter group, so norm layers and biases decay as well (optimizer.py).
    optimizer=dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=0.0001),
    clip_grad=None,
)
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=0.0,  # optimizer.py: no floor
        power=1.0,  # train_mapillary.yml: poly_exp
        begin=0,
        end=225000,
        by_epoch=False,
    )
]

# Every 10 epochs; the authors validate after each (train.py: --val_freq 1).
train_cfg = dict(
    # IterBasedTrainLoop that skips past data on a resume.
    type='ResumableIterBasedTrainLoop',
    max_iters=225000,
    val_interval=11250,
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=11250),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='ScaleMapsVisualizationHook'),
)
# For runs of days, as in schedule_200e.py.
custom_hooks = [dict(type='InvalidLossHook'), dict(type='IterSeedHook')]
runner_type = 'SafeResumeRunner'
