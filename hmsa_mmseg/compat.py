"""The installed mmcv, mmengine, mmseg and torch, and how to live with them.

The only module of this package that knows about versions. It must run before
anything imports ``mmseg.models``.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# Import name -> what `pip install` needs to hear. ftfy and regex are imported
# by mmseg 1.2.2 (mmseg/utils/tokenizer.py) and declared nowhere.
REQUIREMENTS = {
    'torch': 'torch',
    'numpy': 'numpy',
    'mmengine': 'mmengine==0.10.7',
    'mmcv': 'mmcv-lite==2.1.0',
    'mmseg': 'mmsegmentation==1.2.2',
    'ftfy': 'ftfy',
    'regex': 'regex',
}
# Pairs of distributions that own the same modules, among them those of the
# maintained forks: installed together, files of both lie in one folder.
_SAME_FILES = [
    ('mmengine', 'onedl-mmengine'),
    ('mmcv', 'onedl-mmcv'),
    ('mmcv-lite', 'onedl-mmcv'),
    ('mmsegmentation', 'onedl-mmsegmentation'),
    ('mmcv', 'mmcv-lite'),
]


class _MissingOps(ModuleType):
    """Stands in for ``mmcv._ext``, the compiled operators of full mmcv.

    ``mmseg.models`` imports ``mmcv.ops``, which looks its operators up in
    ``mmcv._ext`` without calling them. Nothing in this package calls one.
    """

    def __init__(self) -> None:
        super().__init__('mmcv._ext')
        # No loader: mmengine and mmcv take a module without one as absent,
        # so that they go on answering that mmcv is not the full one.
        self.__spec__ = ModuleSpec('mmcv._ext', None)

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise RuntimeError(
                f'mmcv.ops needs the compiled operator `{name}`, but mmcv is '
                'installed without operators (mmcv-lite); install the full '
                'one: pip uninstall mmcv-lite && '
                'pip install "setuptools>=68,<82" && '
                'pip install --no-build-isolation mmcv==2.1.0'
            )

        return missing


def check_requirements() -> None:
    """Check that all that mmseg needs can be imported.

    Raises:
        ImportError: Naming what is missing and the pip line that installs
            it, or the mmcv that does not fit mmseg.
    """
    missing = [name for name in REQUIREMENTS if find_spec(name) is None]
    if missing:
        packages = ' '.join(REQUIREMENTS[name] for name in missing)
        raise ImportError(
            f'hmsa_mmseg needs {", ".join(missing)}; install with: '
            f'pip install {packages}'
        )
    try:
        importlib.import_module('mmseg')
    except ImportError as error:
        if 'libGL' not in str(error):
            raise
        raise ImportError(
            'opencv-python needs the system library libGL, which is missing; '
            'install OpenCV without a display instead: pip uninstall -y '
            'opencv-python && pip install opencv-python-headless'
        ) from error
    except AssertionError as error:
        # mmseg 1.2.2 asserts mmcv < 2.2.0 and mmengine < 1.0.0.
        raise ImportError(
            f'the installed mmseg refuses its dependencies: {error} Install '
            f'with: pip install {REQUIREMENTS["mmcv"]} '
            f'{REQUIREMENTS["mmengine"]}'
        ) from error


def warn_about_mixed_stacks() -> None:
    """Warn where two installed distributions do not go together."""
    for one, other in _SAME_FILES:
        if _is_installed(one) and _is_installed(other):
            warnings.warn(
                f'{one} and {other} are both installed and overwrite each '
                f"other's files; uninstall both and install one of them",
                stacklevel=2,
            )
    import numpy
    import torch

    if not torch_has('numpy_2') and numpy.__version__ >= '2':
        warnings.warn(
            f'torch {torch.__version__} was built for numpy 1 and cannot '
            f'exchange data with numpy {numpy.__version__}; install with: '
            'pip install "numpy<2" "opencv-python<4.12"',
            stacklevel=2,
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def is_forked() -> bool:
    """Whether mmengine, mmcv and mmseg are those of the maintained forks."""
    return _is_installed('onedl-mmengine')


def flips_channels_of(preprocessor: Any) -> bool:
    """Whether a ``SegDataPreProcessor`` reverses the order of channels."""
    name = '_channel_conversion' if is_forked() else 'channel_conversion'
    return getattr(preprocessor, name)


def provide_mmcv_ops() -> None:
    """Make ``mmcv.ops`` importable where mmcv has no compiled operators."""
    if is_forked():
        return  # The forks' mmseg does without mmcv.ops.
    try:
        importlib.import_module('mmcv.ops')
    except ModuleNotFoundError as error:
        if error.name != 'mmcv._ext':
            raise
        sys.modules['mmcv._ext'] = _MissingOps()


def provide_torchvision_ops() -> None:
    """Make timm importable where torchvision was built for another torch.

    mmseg imports timm where it is installed, timm imports torchvision, and
    torchvision ends with a RuntimeError where its operators cannot be loaded,
    as those of a CUDA build beside a CPU torch. They are declared, without
    arguments: neither timm nor anything in this package calls one.
    """
    if find_spec('timm') is None or find_spec('torchvision') is None:
        return
    declared = set()
    while True:
        try:
            importlib.import_module('torchvision')
            return
        except RuntimeError as error:
            found = re.search(
                r'operator (torchvision::\w+) does not exist', str(error)
            )
            if found is None or found[1] in declared:
                raise
        importlib.import_module('torch.library').define(found[1], '() -> ()')
        declared.add(found[1])


def prepare() -> None:
    """Check the stack and make ``mmseg.models`` importable."""
    provide_torchvision_ops()
    check_requirements()
    warn_about_mixed_stacks()
    provide_mmcv_ops()


#: What the package and its tests ask of torch beyond 2.0, and the first
#: version that has it.
TORCH_SINCE = {
    'capture_mode': (2, 1),  # torch.cuda.graph(capture_error_mode=...)
    'checkpointing': (2, 1),  # a second run can be told from the first
    'compile_module': (2, 1),  # nn.Module.compile
    'flop_counter': (2, 1),
    'mapped_files': (2, 1),  # torch.load(mmap=True)
    'resize_of_bfloat16': (2, 1),  # with gradients summed in float32
    'solving_on_meta': (2, 1),  # linear systems without values
    'freed_storages': (2, 2),  # it is seen when a storage is freed
    'fsdp_on_cpu': (2, 2),
    'is_compiling': (2, 3),  # torch.compiler.is_compiling
    'choice_of_attention': (2, 3),  # its fused operators can be left out
    'numpy_2': (2, 3),
    'scaler_on_cpu': (2, 3),  # torch.amp.GradScaler
    'autocast_by_device': (2, 4),  # one function asks for all devices
    'float16_on_cpu': (2, 4),
    'onnx_by_choice': (2, 5),  # which exporter writes can be said
    'names_in_files': (2, 6),  # weights_only=True takes names of types
    'shutdown_of_gloo': (2, 8),  # it waits without locking Python
    'export_of_any_size': (2, 9),  # comparisons of sizes become checks
}


def torch_has(feature: str) -> bool:
    """Whether the installed torch has a feature of ``TORCH_SINCE``."""
    import torch

    # Two numbers: what precedes a release counts as the release.
    version = torch.__version__.split('.')[:2]
    return tuple(map(int, version)) >= TORCH_SINCE[feature]


def torch_needed(feature: str) -> str:
    """Say which torch has a feature of ``TORCH_SINCE``, and which is here."""
    import torch

    since = '.'.join(map(str, TORCH_SINCE[feature]))
    return f'needs torch {since} or newer, found {torch.__version__}'


def loads_by_name() -> bool:
    """Whether ``weights_only=True`` takes names that files may hold."""
    return torch_has('names_in_files')


def maps_files() -> bool:
    """Whether ``torch.load`` can map a file instead of reading it."""
    return torch_has('mapped_files')


def flop_counter(**kwargs: Any) -> Any:
    """Make torch's ``FlopCounterMode``.

    Raises:
        RuntimeError: If this torch has none.
    """
    if not torch_has('flop_counter'):
        raise RuntimeError(
            f'counting operations {torch_needed("flop_counter")}'
        )
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(**kwargs)


def autocast(device_type: str, dtype: Any) -> Any:
    """Make ``torch.autocast``, which switches itself off where it cannot run.

    Args:
        device_type (str): Such as ``cpu``.
        dtype (torch.dtype): Of the layers.

    Returns:
        torch.autocast: A context manager.

    Raises:
        ValueError: If this torch cannot run layers of the device in this
            type, as float16 on a CPU before 2.4.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        context = torch.autocast(device_type, dtype=dtype)
    if not context._enabled:
        raise ValueError(
            f'torch {torch.__version__} cannot run layers in {dtype} on the '
            f'device type {device_type!r}; use another type, or none '
            '(test_cfg.dtype=None), or another device'
        )
    return context


def autocast_state(device_type: str) -> tuple:
    """What autocast does to operations on a device.

    Type and whether casts are kept; empty if it is off, and before torch 2.4
    for all devices but CUDA's.
    """
    import torch

    if torch_has('autocast_by_device'):
        is_on = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type)
    else:
        is_on = device_type == 'cuda' and torch.is_autocast_enabled()
        dtype = torch.get_autocast_gpu_dtype()
    return (dtype, torch.is_autocast_cache_enabled()) if is_on else ()


def capture_graph(graph: Any, pool: Any, stream: Any) -> Any:
    """Make ``torch.cuda.graph``, which lets other threads use the GPU."""
    import torch

    mode = {}
    if torch_has('capture_mode'):
        # As those that pin memory for the loader, or watch NCCL.
        mode = dict(capture_error_mode='thread_local')
    return torch.cuda.graph(graph, pool=pool, stream=stream, **mode)


def end_of_allocation() -> Any:
    """What tells torch's allocator that a capture has ended.

    A function of the device's index and the capture's pool of memory.
    """
    import torch

    return getattr(
        torch._C,
        '_cuda_endAllocateToPool',  # torch 2.8 and newer
        getattr(torch._C, '_cuda_endAllocateCurrentStreamToPool', None),
    )
