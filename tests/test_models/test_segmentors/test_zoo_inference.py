"""Ways of inference on models of the zoo."""

import copy

import torch

from hmsa_mmseg.models import prepare_for_inference


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
