"""Suite `fusion`: from logits and attention of each scale to classes.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: head output size at one
    scale.
"""

from __future__ import annotations

# First: it makes the rest of the stack importable.
import hmsa_mmseg  # noqa: F401  # isort: skip

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hmsa_mmseg.models.scale_fusion import fuse_scales, scaled_size
from hmsa_mmseg.models.tiled.decisions import decide
from hmsa_mmseg.models.tiled.logit_rows import FusedLogits, LogitRows

from .literal_network import ScaleMaps, blend_scales, upsample
from .measure import machine, peak_live_bytes
from .options import Options, progress
from .reference import logits_difference, must_be_equal, wrong_classes
from .report import Figure, ratio_text, size_text
from .timing import time_variants

TITLE = 'Fusion of scales'
SCALES = (2.0, 1.0, 0.5)
# Of the largest logit; float32 rounds in another order.
TOLERANCE = 1e-5


class Case(NamedTuple):
    """A workload."""

    num_classes: int
    size: tuple[int, int]


CASES = {
    'full': [Case(19, (1024, 2048)), Case(65, (512, 1024))],
    'small': [Case(19, (64, 128))],
}


class HeadOutputs(NamedTuple):
    """What the heads give at one scale: (N, K or 1, h, w)."""

    scale: float
    main: Tensor
    aux: Tensor
    attn: Tensor


def make_outputs(case: Case, device: str) -> list[HeadOutputs]:
    """Random logits and attention at stride 4, highest scale first."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, size: list[int]) -> Tensor:
        coarse = torch.randn(
            1, channels, *(-(-side // 8) for side in size), generator=generator
        )
        return upsample(3 * coarse, size).to(device)

    outputs = []
    for scale in SCALES:
        size = [-(-side // 4) for side in scaled_size(case.size, scale)]
        outputs.append(
            HeadOutputs(
                scale,
                noise(case.num_classes, size),
                noise(case.num_classes, size),
                noise(1, size).sigmoid(),
            )
        )
    return outputs


def literal_fusion(
    outputs: list[HeadOutputs], size: tuple[int, int]
) -> Tensor:
    """Blend as the authors do: all maps at the full size of their scale.

    What their network returns beside the result stays to the end.
    """
    kept = []

    def enlarged() -> Iterator[tuple[float, ScaleMaps]]:
        for scale, *maps in outputs:
            full = scaled_size(size, scale)
            maps = ScaleMaps(*(upsample(x, full) for x in maps))
            kept.append((maps.main, maps.attn))
            yield scale, maps

    return blend_scales(enlarged())[0]


def row_tiles_of(
    outputs: list[HeadOutputs], size: tuple[int, int]
) -> LogitRows:
    """Get ready to blend in tiles of rows."""
    maps = zip(*((out.scale, out.main, out.attn) for out in outputs))
    return FusedLogits(*maps, size, False)


def classes_of_rows(rows: LogitRows) -> Tensor:
    """Decide in tiles of rows."""
    return decide(rows, torch.uint8, None).classes


def variants(case: Case, device: str) -> dict[str, Callable[[], Tensor]]:
    """The ways that are compared; all but ``logits`` end in classes."""
    outputs = make_outputs(case, device)
    maps = [(out.scale, out.main, out.attn) for out in outputs]
    return {
        'literal': lambda: literal_fusion(outputs, case.size).argmax(dim=1),
        'plain': lambda: fuse_scales(maps, case.size).argmax(dim=1),
        'row tiles, logits': lambda: row_tiles_of(outputs, case.size).whole(),
        'row tiles, classes': lambda: classes_of_rows(
            row_tiles_of(outputs, case.size)
        ),
    }


@torch.no_grad()
def check(case: Case, device: str) -> dict[str, float]:
    """Compare the results; stops if they differ."""
    outputs = make_outputs(case, device)
    expected = literal_fusion(outputs, case.size)
    maps = [(out.scale, out.main, out.attn) for out in outputs]
    rows = row_tiles_of(outputs, case.size)
    found = {
        'plain': logits_difference(fuse_scales(maps, case.size), expected),
        'row tiles': logits_difference(rows.whole(), expected),
        'wrong classes': wrong_classes(
            classes_of_rows(rows), expected, TOLERANCE
        ),
    }
    must_be_equal('fusion', found, TOLERANCE)
    return found


@torch.no_grad()
def run(options: Options) -> dict[str, Any]:
    """Check, then measure.

    Args:
        options (Options): Of the run.

    Returns:
        dict: What is written as JSON.
    """
    results = []
    for case in CASES[options.size]:
        progress(f'fusion: {case}')
        difference = check(case, options.device)
        functions = variants(case, options.device)
        peaks = {
            name: peak_live_bytes(function)
            for name, function in functions.items()
        }
        results.append(
            dict(
                **case._asdict(),
                device=options.device,
                difference=difference,
                peak_bytes=peaks,
                times=time_variants(functions, options.rounds),
            )
        )
    return dict(machine=machine(), rounds=options.rounds, results=results)


def figures(results: dict[str, Any]) -> list[Figure]:
    """Rows of the table of what is to be reached."""
    rows = []
    for row in results['results']:
        way = 'row tiles, classes'
        peak = row['peak_bytes']
        rows.append(
            Figure(
                f'memory of the fusion, {size_text(row["size"])}, '
                f'{row["num_classes"]} classes',
                'literal',
                peak['literal'] / peak[way],
                at_least=True,
                detail=f'{peak[way] / 1e6:.0f} MB; time '
                + ratio_text(row['times'][way]['wall_ratio']),
            )
        )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Format what :func:`run` gives as the text of the suite's page."""
    lines = [
        'From logits and attention at stride 4 of scales 0.5, 1 and 2 to the '
        'class of every pixel, or to fused logits, where that is said. '
        "Literal: in the authors' order of operations "
        '([literal_network.py](../../tools/benchmarking/literal_network.py)),'
        ' with the auxiliary maps, which they blend too. Before that, all '
        'were checked to give the same logits and classes, ties aside. '
        f'Times: median of {results["rounds"]} interleaved rounds, ratios '
        'with range. Memory: the most that tensors hold at once.',
        '',
        '| classes, size | | ms | over literal | CPU time | MB |',
        '| :-- | :-- | --: | --: | --: | --: |',
    ]
    for row in results['results']:
        for name, time in row['times'].items():
            lines.append(
                f'| {row["num_classes"]}, {size_text(row["size"])} | {name} '
                f'| {time["wall_ms"]:.0f} | {ratio_text(time["wall_ratio"])} '
                f'| {ratio_text(time["cpu_ratio"])} '
                f'| {row["peak_bytes"][name] / 1e6:.0f} |'
            )
    return '\n'.join(lines)
