"""How transforms show themselves when a pipeline is printed."""

from __future__ import annotations

import inspect


class OptionsRepr:
    """Shows the arguments of the constructor, kept under their names."""

    def __repr__(self) -> str:
        """Return the call that makes such a transform."""
        options = [
            f'{name}={getattr(self, name)!r}'
            for name in inspect.signature(type(self)).parameters
            if hasattr(self, name)
        ]
        return f'{type(self).__name__}({", ".join(options)})'
