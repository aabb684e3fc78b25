# Every config has this file as a base. It holds the only `custom_imports`:
# mmengine replaces lists, so a second one would drop this one.
custom_imports = dict(imports=['hmsa_mmseg'], allow_failed_imports=False)

default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Several processes on CPUs take gloo, and more: see the README.
    dist_cfg=dict(backend='nccl'),
)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='ScaleMapsVisualizer', vis_backends=vis_backends, name='visualizer'
)

log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False

tta_model = dict(type='SegTTAModel')
