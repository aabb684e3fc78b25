"""Keys of configs that are misspelt."""

import inspect
import pickle
import re
from functools import partial

import pytest
from mmengine.utils import ManagerMixin
from mmseg import registry as registries
from mmseg.registry import HOOKS, MODELS

import hmsa_mmseg

NOT_KEYS = ('self', 'args', 'kwargs')
CLASSES = [
    pytest.param(registry, cls, id=cls.__name__)
    for registry in map(vars(registries).get, registries.__all__)
    for cls in registry.module_dict.values()
    if cls.__module__.startswith(f'{hmsa_mmseg.__name__}.')
]


def keys_of(cls):
    """What an object of a class can be given, from its first base on."""
    for base in cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters
        names = [name for name in parameters if name not in NOT_KEYS]
        if names:
            return names
    return []


@pytest.mark.parametrize(('registry', 'cls'), CLASSES)
@pytest.mark.fault(
    'a misspelt key of a class of this package',
    'refused when it is built, with the key that it resembles',
)
def test_misspelt_keys(registry, cls):
    keys = keys_of(cls)
    if not keys:
        with pytest.raises(TypeError, match=rf'{cls.__name__} has no .*scale'):
            registry.build(dict(type=cls.__name__, scale=1))
        return
    key = max(keys, key=len)
    cfg = {f'{key[:-1]}_': 1}
    if issubclass(cls, ManagerMixin):
        cfg['name'] = 'test'
    message = rf'^{cls.__name__} has no setting .*did you mean .*\b{key}\b.*\?'
    build = partial(registry.build, dict(type=cls.__name__, **cfg))
    if registry is registries.RUNNERS:
        build = partial(cls, **cfg)  # a config of a run may have any keys
    with pytest.raises(TypeError, match=message):
        build()


def test_there_are_classes_of_all_kinds():
    assert len(CLASSES) > 30
    assert len({id(param.values[0]) for param in CLASSES}) == 9


def test_classes_are_otherwise_as_before():
    cls = MODELS.get('RMILoss')
    parameters = inspect.signature(cls).parameters
    assert 'num_classes' in parameters
    assert 'kwargs' not in parameters
    assert 'num_classes' in inspect.getfullargspec(cls.__init__).args
    assert re.match('RMILoss', cls.__init__.__qualname__)
    hook = HOOKS.get('InvalidLossHook')(max_skips=3)
    assert pickle.loads(pickle.dumps(hook)).max_skips == 3

    class Mine(HOOKS.get('InvalidLossHook')):
        def __init__(self, mine=0, **kwargs):
            super().__init__(**kwargs)
            self.mine = mine

    assert Mine(mine=1, max_skips=2).mine == 1
    with pytest.raises(TypeError, match="argument 'max_skip'"):
        Mine(max_skip=2)
