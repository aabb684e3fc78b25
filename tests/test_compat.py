"""What `compat` says about the installed stack, and mends in it."""

import importlib
import inspect
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.utils.dl_utils import mmcv_full_available
from torch.torch_version import TorchVersion

from hmsa_mmseg import compat


@pytest.mark.parametrize('name', ['ftfy', 'mmcv'])
@pytest.mark.fault(
    'a required package is missing',
    'an error with the pip line',
)
def test_a_missing_package_is_named_with_its_pip_line(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    package = compat.REQUIREMENTS[name]
    with pytest.raises(ImportError, match=f'needs {name}.*install {package}'):
        compat.check_requirements()


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (
            AssertionError('MMCV==2.2.0 is used but incompatible.'),
            r'MMCV==2\.2\.0 .* pip install mmcv-lite==2\.1\.0',
        ),
        (
            ImportError('libGL.so.1: cannot open shared object file'),
            'pip install opencv-python-headless',
        ),
        (ImportError('something else'), '^something else$'),
    ],
)
@pytest.mark.fault(
    'mmcv does not fit mmseg, or libGL is missing',
    'an error with the pip line',
)
def test_a_stack_that_does_not_fit_is_explained(monkeypatch, error, message):
    def fail(name):
        raise error

    monkeypatch.setattr(importlib, 'import_module', fail)
    with pytest.raises(ImportError, match=message):
        compat.check_requirements()


@pytest.mark.fault(
    'mmcv and its fork are both installed',
    'a warning at import',
)
def test_a_package_beside_its_fork_is_warned_about(monkeypatch):
    monkeypatch.setattr(compat.metadata, 'version', lambda distribution: '1.0')
    with pytest.warns(UserWarning, match='mmcv-lite and onedl-mmcv are both'):
        compat.warn_about_mixed_stacks()


@pytest.mark.parametrize(
    ('torch_version', 'numpy_version', 'fits'),
    [
        ('2.2.2+cu121', '2.0.2', False),
        ('2.2.2', '1.26.4', True),
        ('2.3.0', '2.0.2', True),
        ('2.13.0+cpu', '2.3.5', True),
    ],
)
@pytest.mark.fault(
    'a torch built for numpy 1 beside numpy 2',
    'a warning at import',
)
def test_an_old_torch_beside_numpy_2_is_warned_about(
    monkeypatch, recwarn, torch_version, numpy_version, fits
):
    monkeypatch.setattr(torch, '__version__', TorchVersion(torch_version))
    monkeypatch.setattr(np, '__version__', numpy_version)
    compat.warn_about_mixed_stacks()
    found = [w for w in recwarn if 'numpy<2' in str(w.message)]
    assert len(found) == (not fits)
    # Of one stack alone there is no other warning.
    assert len(recwarn.list) == len(found)


@pytest.mark.fault(
    'an operator of mmcv is called with mmcv-lite',
    'an error with the pip line when it is called',
)
def test_without_operators_a_placeholder_is_put_in_place(monkeypatch):
    def fail(name):
        assert name == 'mmcv.ops'
        raise ModuleNotFoundError(name='mmcv._ext')

    monkeypatch.setitem(sys.modules, 'mmcv._ext', 'before')
    monkeypatch.setattr(importlib, 'import_module', fail)
    monkeypatch.setattr(compat, '_is_installed', lambda distribution: False)
    compat.provide_mmcv_ops()
    ops = sys.modules['mmcv._ext']
    with pytest.raises(RuntimeError, match=r'operator `nms`.*mmcv==2\.1\.0'):
        ops.nms()
    # Dunder names are not operators: inspection and pickling rely on it.
    assert not hasattr(ops, '__path__')

    def fail_otherwise(name):
        raise ModuleNotFoundError(name='addict')

    monkeypatch.setattr(importlib, 'import_module', fail_otherwise)
    with pytest.raises(ModuleNotFoundError):
        compat.provide_mmcv_ops()


def test_operators_that_are_there_are_left_alone(monkeypatch):
    compiled = ModuleType('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', compiled)
    compat.provide_mmcv_ops()
    assert sys.modules['mmcv._ext'] is compiled


def test_the_placeholder_does_not_count_as_operators():
    present = sys.modules.get('mmcv._ext')
    is_compiled = present is not None and not isinstance(
        present, compat._MissingOps
    )
    assert mmcv_full_available() == is_compiled


@pytest.mark.parametrize(
    'missing', [['torchvision::nms', 'torchvision::qnms'], ['aten::add']]
)
@pytest.mark.fault(
    'torchvision does not fit torch',
    'its operators are declared; it can be imported',
)
def test_operators_that_torchvision_cannot_load_are_declared(
    monkeypatch, missing
):
    """Importing torchvision fails until its operators are declared."""

    def load(name):
        if name == 'torch.library':
            return SimpleNamespace(define=lambda op, _: missing.remove(op))
        if missing:
            raise RuntimeError(f'operator {missing[0]} does not exist')

    monkeypatch.setattr(compat, 'find_spec', lambda name: 'found')
    monkeypatch.setattr(importlib, 'import_module', load)
    if missing == ['aten::add']:
        with pytest.raises(RuntimeError, match='aten::add'):
            compat.provide_torchvision_ops()
        return
    compat.provide_torchvision_ops()
    assert not missing


@pytest.mark.parametrize(
    ('torch_version', 'has'),
    [
        ('2.1.2+cu121', False),
        ('2.2.0a0+81ea7a4', True),
        ('2.13.0+cpu', True),
        ('3.0.0', True),
    ],
)
def test_features_of_torch_by_version(monkeypatch, torch_version, has):
    monkeypatch.setattr(torch, '__version__', torch_version)
    assert compat.torch_has('freed_storages') == has
    needed = compat.torch_needed('freed_storages')
    assert needed == f'needs torch 2.2 or newer, found {torch_version}'


def test_features_that_can_be_looked_for():
    """The table says what the installed torch says."""
    load = inspect.signature(torch.load).parameters
    checkpoint = inspect.signature(torch.utils.checkpoint.checkpoint)
    expected = {
        'checkpointing': 'context_fn' in checkpoint.parameters,
        'choice_of_attention': hasattr(torch.backends, 'mha'),
        'compile_module': hasattr(torch.nn.Module, 'compile'),
        'mapped_files': 'mmap' in load,
        'names_in_files': hasattr(
            torch.serialization, 'get_unsafe_globals_in_checkpoint'
        ),
        'scaler_on_cpu': hasattr(torch.amp, 'GradScaler'),
    }
    assert {name: compat.torch_has(name) for name in expected} == expected


def test_a_torch_without_a_counter_of_operations_is_named(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.0.1+cu117')
    with pytest.raises(RuntimeError, match=r'needs torch 2\.1 .*, found \d'):
        compat.flop_counter()


def test_autocast():
    conv, x = torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)
    with compat.autocast('cpu', torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    # torch warns, and runs in float32.
    with pytest.raises(ValueError, match=r"torch\.int32 .*'cpu'"):
        compat.autocast('cpu', torch.int32)
