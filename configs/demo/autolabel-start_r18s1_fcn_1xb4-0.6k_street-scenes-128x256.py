# Where all models of the loop start from, in place of weights pretrained on
# other data, which the paper's have: the fine labels, from random weights.
_base_ = './autolabel-fine_r18s1_fcn_1xb4-0.3k_street-scenes-128x256.py'
param_scheduler = [dict(_base_.param_scheduler[0], end=600)]
train_cfg = dict(max_iters=600, val_interval=600)
