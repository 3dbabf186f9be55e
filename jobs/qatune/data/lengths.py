"""How long the rows are: as numbers, and as a picture with the limit drawn in."""

import io
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from qatune.config import Data

_BINS = 48
_GREY = "#808080"  # readable on white and on black
_BLUE = "#3b82d0"
_RED = "#d9534f"
_FAR = 2


class Lengths:
    """Exact counts by length. Grows with the number of different lengths, not with the rows."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, lengths: Iterable[int]) -> None:
        self._counts.update(lengths)

    def histogram(self, limit: int | None = None) -> dict[str, Any]:
        """Return edges, counts and what summarizes them.

        The bins are equally wide up to past the limit and 99 % of the rows; a last bin takes the
        few rows that are longer still.
        """
        if not self._counts:
            return {"edges": [0, 1], "counts": [0], "rows": 0} | dict.fromkeys(
                ("min", "max", "mean", "p50", "p90", "p99"), 0
            )
        values = np.array(sorted(self._counts))
        counts = np.array([self._counts[int(value)] for value in values])
        edges = _edges(int(values[-1]), max(_percentile(values, counts, 99), limit or 0))
        rows = int(counts.sum())
        return {
            "edges": edges,
            "counts": np.histogram(values, bins=edges, weights=counts)[0].astype(int).tolist(),
            "rows": rows,
            "min": int(values[0]),
            "max": int(values[-1]),
            "mean": round(float(values @ counts) / rows, 3),
            **{f"p{share}": _percentile(values, counts, share) for share in (50, 90, 99)},
        }


def _percentile(values: Any, counts: Any, share: int) -> int:
    """Return the smallest length that `share` percent of the rows do not exceed."""
    sums = np.cumsum(counts)
    return int(values[np.searchsorted(sums * 100, share * sums[-1])])


def _edges(longest: int, shown: int) -> list[int]:
    width = max(-(-min(longest + 1, shown * 5 // 4 + 1) // _BINS), 1)
    edges = list(range(0, width * (_BINS + 1), width))
    return edges if longest < edges[-1] else [*edges, longest + 1]


def summary(data: Data, tokens: Lengths, characters: Lengths) -> dict[str, Any]:
    """Return the content of lengths.json."""
    limits = {data.length_unit: data.max_length}
    return {
        "unit": data.length_unit,
        "limit": data.max_length,
        "tokens": tokens.histogram(limits.get("tokens")),
        "characters": characters.histogram(limits.get("characters")),
    }


def picture(lengths: dict[str, Any]) -> bytes:
    """Draw the histogram of the limit's unit as SVG: the same bytes for the same numbers."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "qatune", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        figure.patch.set_alpha(0)
        _draw(figure.add_subplot(), lengths)
        file = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return file.getvalue()


def _draw(axes: Any, lengths: dict[str, Any]) -> None:
    shown, limit = lengths[lengths["unit"]], lengths["limit"]
    edges, width = shown["edges"], shown["edges"][1] - shown["edges"][0]
    # The last bin may reach far: it is drawn as wide as the others.
    axes.bar(edges[:-1], shown["counts"], width=width * 0.9, align="edge", color=_BLUE)
    end = edges[-2] + width
    near = limit <= _FAR * shown["max"]  # a line far away would leave the rows a narrow strip
    if near:
        end = max(end, limit * 1.05)
        axes.axvline(limit, color=_RED, linewidth=1.5)
    axes.annotate(
        f"limit {limit:,}" if near else f"limit {limit:,}, far to the right",
        (limit if near else end, 1), xycoords=("data", "axes fraction"),
        xytext=(4 if near else -4, -12), textcoords="offset points", color=_RED,
        ha="left" if near else "right",
    )  # fmt: skip
    axes.set_xlim(0, end)
    axes.set_xlabel(f"{lengths['unit']} per row (longest: {shown['max']:,})", color=_GREY)
    axes.set_ylabel("rows", color=_GREY)
    axes.tick_params(colors=_GREY)
    axes.patch.set_alpha(0)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
