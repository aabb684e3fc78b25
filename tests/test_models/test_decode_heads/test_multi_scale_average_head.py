import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from test_models.cases import FCN, SCALES, build_head, cascade, step

SIZE = (40, 56)


@pytest.fixture
def build_pair(tiny_model_cfg):
    """Return a function for our model and mmseg's own of the same weights."""

    def build(seg_head=FCN, scales=(1.0,)):
        cfg = tiny_model_cfg()
        ours = build_head(
            tiny_model_cfg,
            'average',
            seg_head,
            train_scales=scales,
            test_cfg=dict(mode='whole', scales=scales),
        )
        cfg.update(
            type='EncoderDecoder',
            decode_head=seg_head,
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        )
        if isinstance(seg_head, list):
            cfg.update(type='CascadeEncoderDecoder', num_stages=2)
        stock = MODELS.build(ConfigDict(cfg))
        for name, buffer in stock.named_buffers():
            if name.endswith('running_mean'):
                torch.nn.init.normal_(buffer, 0, 0.1)
        state = {
            key.replace('decode_head.', 'decode_head.seg_head.'): value
            for key, value in stock.state_dict().items()
        }
        ours.load_state_dict(state, strict=True)
        return ours, stock

    return build


def test_training_at_one_scale_is_the_stock_model_s(build_pair, make_batch):
    ours, stock = build_pair()
    batch = make_batch(size=SIZE)
    losses, expected = (
        step(model.train(), batch)[0] for model in (ours, stock)
    )
    assert losses.keys() == {'decode.loss_ce', 'decode.acc_seg'}
    for key in expected:
        assert torch.equal(losses[key], expected[key]), key
    grads = dict(stock.named_parameters())
    for name, param in ours.named_parameters():
        name = name.replace('decode_head.seg_head.', 'decode_head.')
        assert torch.equal(param.grad, grads[name].grad), name
    # The running statistics of BN as well: each layer ran once.
    state = stock.state_dict()
    for name, value in ours.state_dict().items():
        name = name.replace('decode_head.seg_head.', 'decode_head.')
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ('seg_head', 'scales'),
    [(FCN, (1.0,)), (FCN, (0.75, 1.5)), (cascade(), SCALES)],
)
def test_mean_of_the_stock_model_s_logits(
    build_pair, make_batch, seg_head, scales
):
    """Mean of what mmseg's model says of each resized image."""
    ours, stock = build_pair(seg_head, scales)
    inputs, samples = make_batch(size=SIZE)
    metas = [sample.metainfo for sample in samples]
    ours.eval()
    stock.eval()
    with torch.no_grad():
        maps = []
        for scale in scales:
            size = [int(side * scale) for side in SIZE]
            image = F.interpolate(inputs, size, mode='bilinear')
            # mmseg takes the size of the result from here.
            own = [{**m, 'img_shape': size, 'pad_shape': size} for m in metas]
            logits = stock.encode_decode(image, own)
            assert logits.shape[2:] == torch.Size(size)
            maps.append(F.interpolate(logits, SIZE, mode='bilinear'))
        fused = ours.encode_decode(inputs, metas)
    torch.testing.assert_close(fused, torch.stack(maps).mean(dim=0))


def test_losses_of_several_scales_are_those_of_the_mean(
    build_pair, make_batch
):
    ours, _ = build_pair(
        cascade(loss_decode=dict(type='CrossEntropyLoss')), (0.5, 1.0)
    )
    inputs, samples = make_batch(size=SIZE)
    losses = ours.eval().loss(inputs, samples)
    label = torch.stack([s.gt_sem_seg.data for s in samples]).squeeze(1)
    expected = F.cross_entropy(
        ours.encode_decode(inputs), label, ignore_index=255, reduction='none'
    ).mean()  # over all pixels, as mmseg's default
    torch.testing.assert_close(losses['decode.loss_ce'], expected)
    assert 'aux.loss_ce' in losses
    with pytest.raises(ValueError, match='at least one scale'):
        ours.decode_head.predict([], SIZE)
