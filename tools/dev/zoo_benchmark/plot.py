"""The plot: mIoU against FLOPs and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .accuracy import AUTHORS_GFLOP, QUOTED
from .labels import place_labels
from .results import Test, best_timed, counted_sizes, tests_of

# Okabe and Ito's colours, which colour-blind people can tell apart. A part of
# a model's name decides.
COLOURS = {
    'ocr': '#0072B2',
    'deeplab': '#D55E00',
    'pspnet': '#E69F00',
    'upernet': '#009E73',
    'segformer': '#CC79A7',
    'fcn': '#56B4E9',
    'pidnet': '#000000',
}
_OTHER, _QUOTED = '#666666', '#444444'
MARKERS = {
    'single': 'o',
    'ms_flip': 's',
    'hierarchical': 'D',
    'hierarchical_flip': '^',
}
_DPI = 100
_AUTHORS_SIZE = '1024x2048'


class Point(NamedTuple):
    """A test in the plot.

    Attributes:
        test (Test): What it shows.
        cost (float): Its place from left to right.
    """

    test: Test
    cost: float

    @property
    def colour(self) -> str:
        """Of its family."""
        return next(
            (
                colour
                for part, colour in COLOURS.items()
                if part in self.test.label
            ),
            _OTHER,
        )


def draw(path: Path, results: Mapping[str, Any]) -> bool:
    """Draw mIoU against cost: above FLOPs, below time.

    Published points are hollow, evaluated ones filled. The tests of one model
    are joined, with an arrow where it blends scales by itself; of models
    without mIoU a strip below shows the cost.

    Args:
        path (Path): PNG to write.
        results (Mapping): Of the run.

    Returns:
        bool: Whether there was anything to draw.
    """
    # Only here: nothing else needs matplotlib. No display is asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = results['models']
    panels = []
    sizes, timed = counted_sizes(rows), best_timed(rows)
    for size in sizes[-1:]:
        title = f'GFLOP of one image of {size} (log)'
        panels.append((title, _by_model(rows, _flops_at(size)), size))
    if timed is not None:
        clock = 'cpu_ms' if results['device'] == 'cpu' else 'wall_ms'
        name = 'CPU seconds' if clock == 'cpu_ms' else 'seconds'
        title = f'{name} of one image of {timed} (log)'
        panels.append((title, _by_model(rows, _seconds_at(timed, clock)), ''))
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return False
    ratios = []
    for _, models, _ in panels:
        ratios += [5.0, 0.25 * max(len(_without_score(models)), 1) + 0.1]
    height = sum(ratios) + 0.9 * len(panels) + 1.0
    figure = Figure(figsize=(12, height), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(ratios), 1, gridspec_kw=dict(height_ratios=ratios)
    )
    placing = []
    for i, (title, models, counted) in enumerate(panels):
        upper, lower = axes[2 * i], axes[2 * i + 1]
        placing.append(_draw_scores(upper, models, counted))
        _draw_strip(lower, models)
        limits = _limits(models, counted)
        for one in (upper, lower):
            one.set_xscale('log')
            one.set_xlim(*limits)
        lower.set_xlabel(title)
        upper.tick_params(labelbottom=False)
    _legend(figure)
    # Places are known when the layout is.
    figure.canvas.draw()
    figure.set_layout_engine('none')
    for place in placing:
        place()
    figure.savefig(path, dpi=_DPI)
    return True


def _flops_at(size: str) -> Callable[[Test], float | None]:
    return lambda test: test.counts.get(size, {}).get('gflops')


def _seconds_at(what: str, clock: str) -> Callable[[Test], float | None]:
    def cost(test: Test) -> float | None:
        timing = test.times.get(what)
        return timing[clock] / 1e3 if isinstance(timing, dict) else None

    return cost


def _by_model(
    rows: Sequence[Mapping[str, Any]], cost: Callable[[Test], float | None]
) -> dict[str, list[Point]]:
    """Points of each model, with its label, of tests that have a cost."""
    found = {}
    for row in rows:
        points = [
            Point(test, value)
            for test in tests_of(row)
            if (value := cost(test)) is not None
        ]
        if points:
            found[row['label']] = points
    return found


def _without_score(models: Mapping[str, list[Point]]) -> dict:
    return {
        label: points
        for label, points in models.items()
        if all(point.test.miou is None for point in points)
    }


def _limits(
    models: Mapping[str, list[Point]], counted: str
) -> tuple[float, float]:
    costs = [point.cost for points in models.values() for point in points]
    if counted == _AUTHORS_SIZE:
        costs.append(AUTHORS_GFLOP)
    return min(costs) / 1.6, max(costs) * 1.8


def _join(axes: Any, points: Sequence[Point], heights: Sequence) -> None:
    """Join the tests of one model, in the order of :data:`models.MODES`."""
    pairs = list(zip(points, heights))
    for (one, y), (other, other_y) in zip(pairs, pairs[1:]):
        is_own = other.test.mode.startswith('hierarchical')
        axes.annotate(
            '',
            (other.cost, other_y),
            (one.cost, y),
            arrowprops=dict(
                arrowstyle='-|>' if is_own else '-',
                linestyle='-' if is_own else ':',
                color=one.colour,
                shrinkA=4,
                shrinkB=4,
            ),
        )


def _mark(axes: Any, point: Point, y: float, is_filled: bool) -> None:
    axes.plot(
        point.cost,
        y,
        MARKERS[point.test.mode],
        markersize=8,
        markeredgewidth=1.6,
        markeredgecolor=point.colour,
        markerfacecolor=point.colour if is_filled else 'white',
        zorder=3,
    )


def _draw_scores(
    axes: Any, models: Mapping[str, list[Point]], counted: str
) -> Callable[[], None]:
    """Draw points; return what places their labels, for later."""
    texts, marks, lines = [], [], []
    for label, points in models.items():
        scored = [point for point in points if point.test.miou is not None]
        heights = [point.test.miou for point in scored]
        _join(axes, scored, heights)
        places = [(point.cost, y) for point, y in zip(scored, heights)]
        for point, y in zip(scored, heights):
            _mark(axes, point, y, point.test.origin == 'evaluated')
        marks += places
        lines += zip(places, places[1:])
        if scored:
            texts.append((label, *places[0]))
    if counted == _AUTHORS_SIZE:
        for quoted in QUOTED:
            axes.plot(
                AUTHORS_GFLOP,
                quoted.miou,
                '*',
                markersize=13,
                markeredgecolor=_QUOTED,
                markerfacecolor='white',
                zorder=3,
            )
            marks.append((AUTHORS_GFLOP, quoted.miou))
            text = f'authors: + {quoted.extra_data}'
            texts.append((text, AUTHORS_GFLOP, quoted.miou))
    axes.set_ylabel('mIoU, Cityscapes val (%)')
    axes.grid(alpha=0.3)
    axes.margins(y=0.12)
    return lambda: place_labels(axes, texts, marks, lines)


def _draw_strip(axes: Any, models: Mapping[str, list[Point]]) -> None:
    """Draw the cost of models without mIoU, one line each."""
    without = _without_score(models)
    for y, points in enumerate(without.values()):
        _join(axes, points, [y] * len(points))
        for point in points:
            _mark(axes, point, y, is_filled=False)
    axes.set_yticks(range(len(without)), list(without), fontsize=9)
    axes.set_ylim(len(without) - 0.5 if without else 0.5, -0.5)
    axes.set_title('cost alone: mIoU not known', fontsize=9, loc='left')
    axes.grid(axis='x', alpha=0.3)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    from .models import MODES

    def mark(marker: str, label: str, face: str = 'white', size: int = 8):
        return Line2D(
            [],
            [],
            linestyle='',
            marker=marker,
            markersize=size,
            markeredgecolor=_QUOTED,
            markerfacecolor=face,
            label=label,
        )

    handles = [mark(MARKERS[mode], MODES[mode][0]) for mode in MODES]
    handles += [
        mark('o', 'hollow: published', 'white'),
        mark('o', 'filled: evaluated', _QUOTED),
        mark('*', "quoted from the method's authors, other data", size=12),
    ]
    figure.legend(
        handles=handles, loc='outside upper center', ncols=4, fontsize=9
    )
