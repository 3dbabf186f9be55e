"""Where the small drawings inside of tables have their lines, in percent of their width."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LEAST = 1.5
"""How many detectable differences the axis of intervals reaches at least, to each side."""


@dataclass(frozen=True)
class Interval:
    """An interval on the axis that all measures share: better is to the right."""

    left: float
    right: float
    at: float
    """The difference itself."""
    worse: float
    better: float
    """The differences that could have been shown. Zero is in the middle."""


def intervals(
    measures: Mapping[str, Mapping[str, Any]], better: Mapping[str, str]
) -> dict[str, Interval]:
    """Lay out measures in units of their detectable difference, so that they share one axis.

    Those without a better direction, and those without an interval, are left out.
    """
    scaled = {
        key: found
        for key, measure in measures.items()
        if better.get(key) and (found := _scaled(measure, 1 if better[key] == "higher" else -1))
    }
    farthest = max((abs(value) for found in scaled.values() for value in found), default=0)
    reach = math.asinh(max(farthest, _LEAST))
    return {
        key: Interval(*(_percent(value, reach) for value in (low, high, at, -1, 1)))
        for key, (low, at, high) in scaled.items()
    }


def _scaled(measure: Mapping[str, Any], sign: int) -> tuple[float, float, float] | None:
    unit = measure.get("detectable")
    values = [measure.get(name) for name in ("low", "difference", "high")]
    numbers = [value for value in values if value is not None]
    if not unit or len(numbers) < len(values):
        return None
    low, at, high = sorted(sign * value / unit for value in numbers)
    return low, at, high


def _percent(value: float, reach: float) -> float:
    """Place a value; far from zero the axis is logarithmic, so that none leaves it."""
    # Room for the marks at both ends.
    return round(50 + 46 * math.asinh(value) / reach, 2)


@dataclass(frozen=True)
class Part:
    kind: str
    left: float
    width: float


def bars(seconds: Mapping[str, Mapping[str, float]], kinds: Sequence[str]) -> dict[str, list[Part]]:
    """Lay out where the seconds of each stage went; the longest takes all the width."""
    longest = max((sum(of.get(kind, 0.0) for kind in kinds) for of in seconds.values()), default=0)
    return {stage: _bar(of, kinds, longest) for stage, of in seconds.items()}


def _bar(of: Mapping[str, float], kinds: Sequence[str], longest: float) -> list[Part]:
    parts, left = [], 0.0
    for kind in kinds:
        width = round(100 * of.get(kind, 0.0) / longest, 2) if longest else 0.0
        if width:
            parts.append(Part(kind, round(left, 2), width))
        left += width
    return parts
