"""Heads and backbones of the zoo, small: train a step, predict, prepare."""

import copy

import torch
from mmengine.optim import OptimWrapper

from hmsa_mmseg.models import prepare_for_inference


def test_train_a_step_and_predict(zoo_case, build_tiny, make_batch):
    model = build_tiny(**zoo_case)
    inputs, samples = make_batch(size=(64, 96))
    before = {k: v.clone() for k, v in model.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    losses, _ = model.parse_losses(model.train().loss(inputs, samples))
    wrapper.update_params(losses)
    changed = {
        key
        for key, value in model.named_parameters()
        if not torch.equal(value, before[key])
    }
    is_cascade = isinstance(zoo_case['seg_head'], list)
    name = 'seg_head.1' if is_cascade else 'seg_head'
    # Every part learns, the attention branch included.
    assert any(key.startswith('backbone.') for key in changed)
    assert 'decode_head.scale_attn.conv0.weight' in changed
    assert f'decode_head.{name}.conv_seg.weight' in changed

    model.eval()
    prepared = prepare_for_inference(copy.deepcopy(model))
    with torch.no_grad():
        (result, _) = model.predict(inputs, samples)
        expected, found = (
            one.encode_decode(inputs) for one in (model, prepared)
        )
    assert result.seg_logits.data.shape == (5, 64, 96)
    assert result.seg_logits.data.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # The losses' own state apart (EncHead), nothing is left unfolded that
    # inference runs; auxiliary outputs are not among that.
    count = sum('running_mean' in key for key in model.state_dict())
    left = sum('running_mean' in key for key in prepared.state_dict())
    assert left <= count // 5
