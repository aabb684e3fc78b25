"""Ways of inference on models of the zoo."""

import copy

import torch
from mmengine.config import ConfigDict

from hmsa_mmseg.models import prepare_for_inference
from hmsa_mmseg.models.inference import memory_budget
from hmsa_mmseg.utils.live_bytes import peak_live_bytes

SCALES = (0.5, 1.0, 2.0)


def test_prepared(zoo_case, build_tiny, make_batch):
    model = build_tiny(**zoo_case).eval()
    inputs, _ = make_batch(size=(64, 96))
    prepared = prepare_for_inference(copy.deepcopy(model))
    with torch.no_grad():
        torch.testing.assert_close(
            prepared.encode_decode(inputs),
            model.encode_decode(inputs),
            rtol=0,
            atol=1e-5,
        )
    # The losses' own state apart (EncHead), nothing is left unfolded that
    # inference runs; auxiliary outputs are not among that.
    count = sum('running_mean' in key for key in model.state_dict())
    left = sum('running_mean' in key for key in prepared.state_dict())
    assert left <= count // 5


def test_memory_is_foretold(zoo_case, build_tiny, make_batch):
    model = build_tiny(**zoo_case).eval()
    inputs, _ = make_batch(batch_size=1, size=(64, 96))
    with torch.no_grad():
        expected = model.encode_decode(inputs)
        peak = peak_live_bytes(lambda: model.encode_decode(inputs))
        model.test_cfg = ConfigDict(
            mode='whole', scales=SCALES, memory_budget=int(1.1 * peak)
        )
        found = model.encode_decode(inputs)
        assert peak_live_bytes(lambda: model.encode_decode(inputs)) <= (
            model.test_cfg.memory_budget
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_memory_in_half_precision_is_foretold(
    zoo_case, build_tiny, make_batch
):
    """An upper bound for networks of which autocast leaves a part wide."""
    model = build_tiny(**zoo_case).eval()
    inputs, _ = make_batch(batch_size=1, size=(64, 96))
    cfg = dict(mode='whole', scales=SCALES, dtype='bfloat16')
    model.test_cfg = ConfigDict(**cfg, memory_budget=10**12)
    with torch.no_grad():
        model.encode_decode(inputs)
        (plan,) = memory_budget._plans[model].values()
        model.test_cfg = ConfigDict(cfg)
        peak = peak_live_bytes(lambda: model.encode_decode(inputs))
    assert peak <= plan.peak < 2.5 * peak
