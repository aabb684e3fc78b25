"""mmseg's train.py gives a trained model of mmseg its attention."""

import torch

ATTN = 'decode_head.scale_attn.'


def test_attention_for_a_trained_model(
    run_tool, config_file, trained, tmp_path, read_run
):
    source = torch.load(trained.checkpoint, weights_only=True)['state_dict']
    # The keys of mmseg's CascadeEncoderDecoder.
    stock = {
        key.replace('decode_head.seg_head.', 'decode_head.'): value
        for key, value in source.items()
        if not key.startswith(ATTN)
    }
    torch.save(dict(state_dict=stock), tmp_path / 'stock.pth')
    work_dir = tmp_path / 'work_dir'
    output = run_tool(
        'train.py',
        config_file,
        *('--work-dir', work_dir),
        cwd=tmp_path,
        two_ranks=True,
        options=[
            f'load_from={tmp_path / "stock.pth"}',
            'model.train_cfg.attention_only=True',
            'train_cfg.max_iters=4',
        ],
    )
    assert 'decode_head.* were read as decode_head.seg_head.*' in output
    assert 'unexpected key' not in output
    lines = output.split('\n')
    (missing,) = [line for line in lines if 'missing keys' in line]
    keys = missing.split('state_dict: ')[1].split(', ')
    assert all(key.startswith(ATTN) for key in keys)

    checkpoint = torch.load(work_dir / 'iter_4.pth', weights_only=True)
    found = checkpoint['state_dict']
    assert found.keys() == source.keys()
    for key, value in stock.items():
        own = key.replace('decode_head.', 'decode_head.seg_head.')
        assert torch.equal(found[own], value), key
    # Of the frozen parameters the optimizer keeps nothing.
    momenta = checkpoint['optimizer']['state']
    size = sum(state['momentum_buffer'].numel() for state in momenta.values())
    assert size == sum(
        value.numel()
        for key, value in found.items()
        if key.startswith(ATTN)
        and not key.endswith(('running_mean', 'running_var', 'tracked'))
    )
    for line in read_run(work_dir).train:
        assert {'decode.loss_ce', 'aux.loss_ce'} <= line.keys()
        assert not any(key.startswith('scale_') for key in line)
