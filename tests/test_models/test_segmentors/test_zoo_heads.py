"""Heads and backbones of the zoo, small: build, train one step, predict."""

import torch
from mmengine.optim import OptimWrapper


def test_train_a_step_and_predict(zoo_case, build_tiny, make_batch):
    model = build_tiny(**zoo_case)
    inputs, samples = make_batch(size=(64, 96))
    before = {k: v.clone() for k, v in model.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train()
    losses, _ = model.parse_losses(model.loss(inputs, samples))
    wrapper.update_params(losses)
    changed = [
        key
        for key, value in model.named_parameters()
        if not torch.equal(value, before[key])
    ]
    # Every part learns, the attention branch included.
    assert {key.split('.')[0] for key in changed} == {
        'backbone',
        'decode_head',
    }
    assert 'decode_head.scale_attn.conv0.weight' in changed
    classifier = (
        'seg_head.1' if isinstance(zoo_case['seg_head'], list) else 'seg_head'
    )
    assert f'decode_head.{classifier}.conv_seg.weight' in changed

    model.eval()
    with torch.no_grad():
        results = model.predict(inputs, samples)
    assert results[0].seg_logits.data.shape == (5, 64, 96)
    assert results[0].seg_logits.data.isfinite().all()
