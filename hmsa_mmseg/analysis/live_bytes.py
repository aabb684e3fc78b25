"""Follow how much memory tensors hold."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hmsa_mmseg.compat import torch_has, torch_needed


class LiveBytes(TorchDispatchMode):
    """Follows every storage that an operator returns until it is freed.

    Attributes:
        now (int): Bytes that are held.
        peak (int): The most that were held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable,
        types: Iterable[type],
        args: Sequence = (),
        kwargs: Mapping | None = None,
    ) -> Any:
        """Run an operator and follow what it returns."""
        kwargs = kwargs or {}
        # What comes in unknown was there before: a view of it is not new.
        self._follow((args, kwargs), is_new=False)
        result = func(*args, **kwargs)
        self._follow(result, is_new=True)
        return result

    def _follow(self, tree: Any, is_new: bool) -> None:
        for leaf in _tensors(tree):
            storage = leaf.untyped_storage()
            key = storage._cdata
            if key not in self.sizes:
                self.sizes[key] = storage.nbytes() if is_new else 0
                self.now += self.sizes[key]
                self.peak = max(self.peak, self.now)
                end = weakref.finalize(storage, self._forget, key)
                end.atexit = False

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    """Tensors in what an operator takes or returns.

    Operators nest nothing but lists, tuples and keyword arguments; the
    general ``tree_leaves`` would take most of the time.
    """
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def peak_live_bytes(function: Callable[[], Any]) -> int:
    """Measure the most memory that tensors hold at once during a call.

    Works on any device, ``meta`` included. Buffers that a kernel allocates
    and frees by itself are not seen.

    Args:
        function (Callable): What to run; backward counts if it is run inside.

    Returns:
        int: Bytes above what was held when the call began.

    Raises:
        RuntimeError: If this torch does not tell when a storage is freed.
    """
    if not torch_has('freed_storages'):
        raise RuntimeError(
            f'measuring what tensors hold {torch_needed("freed_storages")}'
        )
    gc.collect()
    with LiveBytes() as live:
        function()
    return live.peak
