"""Curves and the histogram as SVG for the page: coloured by its style sheet, light and dark.

The same numbers give the same bytes.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
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
_WIDE = 30
_MANY_DECADES = 1000
_DASHED = (0, (4, 3))

Point = tuple[float, float]


def losses(steps: Sequence[dict[str, Any]]) -> str:
    """Draw training and held-out loss over the steps."""
    training = _thinned(points(steps, "loss"))
    held_out = points(steps, "heldout_loss")

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
    def draw(axes: Any) -> None:
        axes.plot(*_columns(_thinned(points(steps, "learning_rate"))), color=_ACCENT, linewidth=2)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda rate, _: scientific(rate))
        axes.set_xlabel("optimizer step")

    return _svg("rate", "Learning rate over the optimizer steps", draw)


def gradient_norm(steps: Sequence[dict[str, Any]], limit: float | None = None) -> str:
    """Draw the gradient's norm before clipping, with the norm it is clipped to.

    The axis is logarithmic where the norms span more than a decade and a half.
    """
    found = points(steps, "grad_norm")
    positive = [norm for _, norm in found if norm > 0]
    wide = bool(positive) and max(positive) > _WIDE * min(positive)

    def draw(axes: Any) -> None:
        if wide:
            _in_decades(axes.yaxis, max(positive) / min(positive))
        # A mean would hide what this curve is there to show.
        axes.plot(*_columns(_highest(found)), color=_ACCENT, linewidth=1.4)
        if not wide:
            axes.set_ylim(bottom=0)
        _cross(axes, broken(steps))
        if limit and found and limit <= max(norm for _, norm in found):
            axes.axhline(limit, color=_SECOND, linewidth=1.6, linestyle=_DASHED)
            axes.annotate(
                f"clipped to {limit:g}", (1, 1), xycoords="axes fraction", color=_INK,
                ha="right", xytext=(0, 5), textcoords="offset points",
            )  # fmt: skip
        axes.set_xlabel("optimizer step")

    return _svg("norm", "Norm of the gradient over the optimizer steps", draw)


def points(steps: Sequence[dict[str, Any]], name: str) -> list[Point]:
    """Return (step, value) of the steps that have one."""
    return [(step["step"], step[name]) for step in steps if step.get(name) is not None]


def broken(steps: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the steps whose gradient was no number: the journal has null in its place."""
    return [step["step"] for step in steps if "grad_norm" in step and step["grad_norm"] is None]


def _in_decades(axis: Any, span: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axis.axes.set_yscale("log")
    axis.set_major_locator(LogLocator(subs=(1,) if span > _MANY_DECADES else (1, 3), numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _cross(axes: Any, steps: Sequence[int]) -> None:
    """Mark the steps without a number on the axis."""
    if steps:
        foot = axes.get_xaxis_transform()
        axes.plot(
            steps, [0] * len(steps), linestyle="", marker="x", color=_SECOND, markersize=7,
            markeredgewidth=2, transform=foot, clip_on=False,
        )  # fmt: skip


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
            axes.axvline(limit, color=_SECOND, linewidth=1.6, linestyle=_DASHED)
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


def _thinned(curve: Sequence[Point]) -> list[Point]:
    """Average neighbours, so that a long run makes no large drawing."""
    return [(group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in _groups(curve)]


def _highest(curve: Sequence[Point]) -> list[Point]:
    """Keep the highest of neighbours."""
    return [max(group, key=lambda point: point[1]) for group in _groups(curve)]


def _groups(curve: Sequence[Point]) -> list[Sequence[Point]]:
    size = -(-len(curve) // _MOST_POINTS) or 1
    return [curve[first : first + size] for first in range(0, len(curve), size)]


def _smoothed(curve: Sequence[Point]) -> list[Point]:
    """Average each point with those around it; nothing for a curve too short for that."""
    if len(curve) < _SMOOTHED_FROM:
        return []
    reach = max(len(curve) // 30, 2)
    around = (curve[max(at - reach, 0) : at + reach + 1] for at in range(len(curve)))
    means = (math.fsum(y for _, y in group) / len(group) for group in around)
    return [(x, mean) for (x, _), mean in zip(curve, means, strict=True)]


def _columns(curve: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point[0] for point in curve], [point[1] for point in curve]


def _svg(name: str, label: str, draw: Callable[[Any], None]) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 11}):
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
