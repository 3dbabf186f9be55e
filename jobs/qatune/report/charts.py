"""Curves and the histogram as SVG for the page: coloured by its style sheet, light and dark.

The same numbers give the same bytes.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

# Stand-ins that become the page's own colours.
_INK, _ACCENT, _SECOND, _GRID = "#010203", "#010204", "#010205", "#010206"
_COLOURS = {
    _INK: "currentColor",
    _ACCENT: "var(--accent)",
    _SECOND: "var(--second)",
    _GRID: "var(--line)",
}
_MOST_POINTS = 400
_SMOOTHED_FROM = 30
_MARKED = 25

Point = tuple[float, float]


def losses(steps: Sequence[dict[str, Any]]) -> str:
    """Draw training and held-out loss over the steps."""
    training = _thinned([(step["step"], step["loss"]) for step in steps if "loss" in step])
    held_out = [(step["step"], step["heldout_loss"]) for step in steps if "heldout_loss" in step]

    def draw(axes: Any) -> None:
        calm = _smoothed(training)
        if calm:
            axes.plot(*_columns(training), color=_SECOND, linewidth=0.8, alpha=0.35)
        axes.plot(*_columns(calm or training), color=_SECOND, linewidth=2, label="training")
        axes.plot(
            *_columns(held_out), color=_ACCENT, linewidth=2, label="held out",
            marker="o" if len(held_out) <= _MARKED else "", markersize=4.5,
        )  # fmt: skip
        axes.set_xlabel("optimizer step")
        # Above the curves, wherever they go.
        axes.legend(
            frameon=False, labelcolor=_INK, ncols=2, loc="lower left", bbox_to_anchor=(0, 1),
            borderaxespad=0, borderpad=0.2, handlelength=1.4,
        )  # fmt: skip

    return _svg("loss", "Training and held-out loss over the optimizer steps", draw)


def learning_rate(steps: Sequence[dict[str, Any]]) -> str:
    points = [(step["step"], step["learning_rate"]) for step in steps if "learning_rate" in step]

    def draw(axes: Any) -> None:
        axes.plot(*_columns(_thinned(points)), color=_ACCENT, linewidth=2)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda rate, _: scientific(rate))
        axes.set_xlabel("optimizer step")

    return _svg("rate", "Learning rate over the optimizer steps", draw)


def scientific(value: float) -> str:
    """Write a small number as recipes do: 2e-4, 1.5e-4, 0."""
    if not value:
        return "0"
    digits, _, power = f"{value:.3e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def histogram(lengths: dict[str, Any]) -> str:
    """Draw how long the rows are, with the limit where it is near them."""
    shown, limit, unit = lengths[lengths["unit"]], lengths["limit"], lengths["unit"]
    edges = shown["edges"]
    width = edges[1] - edges[0]
    # The last bin may reach far: it is drawn as wide as the others.
    longest = min(edges[-2] + width, shown["max"] + 1)
    near = limit <= 2 * longest
    right = max(longest, limit * 1.05) if near else longest

    def draw(axes: Any) -> None:
        axes.bar(edges[:-1], shown["counts"], width=width * 0.86, align="edge", color=_ACCENT)
        axes.set_xlim(0, right)
        _count_in_whole_numbers(axes.yaxis)
        axes.set_xlabel(f"{unit} per row")
        if near:
            axes.axvline(limit, color=_SECOND, linewidth=1.6, linestyle=(0, (4, 3)))
        # Above the bars, wherever they stand.
        axes.annotate(
            f"limit {limit:,}" if near else f"limit {limit:,}: far beyond the longest row",
            (limit / right, 1) if near else (1, 1), xycoords="axes fraction", color=_INK,
            ha="right" if limit > right / 2 else "left", xytext=(0, 5), textcoords="offset points",
        )  # fmt: skip

    return _svg("lengths", f"Histogram of {unit} per row; the limit is {limit:,}", draw)


def _count_in_whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axis.set_major_formatter("{x:,.0f}")


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Average neighbours, so that a long run makes no large drawing."""
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size or 1)]
    return [(group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in groups]


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """Average each point with those around it; nothing for a curve too short for that."""
    if len(points) < _SMOOTHED_FROM:
        return []
    reach = max(len(points) // 30, 2)
    around = (points[max(at - reach, 0) : at + reach + 1] for at in range(len(points)))
    means = (math.fsum(y for _, y in group) / len(group) for group in around)
    return [(x, mean) for (x, _), mean in zip(points, means, strict=True)]


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]


def _svg(name: str, label: str, draw: Callable[[Any], None]) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 12}):
        figure = Figure(figsize=(4.8, 2.9))
        # Room that does not depend on the font, which is the page's.
        figure.subplots_adjust(left=0.16, right=0.97, top=0.88, bottom=0.19)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        draw(axes)
        _calm(axes)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return _inline(file.getvalue(), name, label)


def _calm(axes: Any) -> None:
    _count_in_whole_numbers(axes.xaxis)
    axes.patch.set_visible(False)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0, pad=5)
    axes.xaxis.label.set_color(_INK)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(_GRID)


def _inline(svg: str, name: str, label: str) -> str:
    """Keep the drawing alone: no prolog, no metadata, names that are unique in the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
