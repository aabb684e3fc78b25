"""Export of models to ONNX and torch.export.

Not imported by ``import hmsa_mmseg``: its extra packages are optional.
"""

from .exporting import export_model
from .formats import load, read_metadata
from .settings import FORMATS, ExportError, ExportSettings
from .verification import Verification

__all__ = [
    'FORMATS',
    'ExportError',
    'ExportSettings',
    'Verification',
    'export_model',
    'load',
    'read_metadata',
]
