"""The results as Markdown."""

from collections.abc import Mapping
from typing import Any

_FORMATS = {
    "loss": ("mean loss of a step", "{:.4f}"),
    "gflops": ("GFLOP/s", "{:,.0f}"),
    "peak_share": ("share of the matmul peak", "{:.0%}"),
    "peak_mb": ("largest process, MB", "{:,.0f}"),
    "tokens": ("tokens", "{:,.0f}"),
    "same_answers": ("answers equal to qatune's", "{:.1%}"),
    "certified": ("equal answers in its certificate", "{:.0f}"),
    "seconds": ("seconds", "{:,.1f}"),
}
_RATES = {
    "tokens_per_second": "tokens/s",
    "answers_per_second": "answers/s",
    "rows_per_second": "rows/s",
}
INTRO = """# Compared

Made by `make bench`: qatune and what else one could take, in turn, each in a process of its own, on
the same machine, model and rows. A figure is the median of the rounds, with the lowest and highest.
"qatune is" compares within a round: its rate divided by the other's.
"""


def page(results: Mapping[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    lines = [
        INTRO,
        _machine(machine),
        "",
        ", ".join(f"{name} {number}" for name, number in versions.items()) + ".",
    ]
    for name, part in results["parts"].items():
        lines += ["", f"## {name}", "", *_section(part)]
    return "\n".join(lines) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['device']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; computed in {machine['dtype']}; {machine['busy_before']} processes "
        "were busy before it began."
    )


def _section(part: Mapping[str, Any]) -> list[str]:
    shown = part["shown"]
    titles = ["", _RATES[part["rate"]], "qatune is", *(_FORMATS[name][0] for name in shown)]
    rows = [_row(name, figures, part) for name, figures in part["summary"].items()]
    return [
        f"Rounds: {part['rounds']}. Model: {part['model']}. {part['setting']}.",
        "",
        f"| {' | '.join(titles)} |",
        "| --- " * len(titles) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _row(name: str, figures: Mapping[str, float], part: Mapping[str, Any]) -> list[str]:
    return [
        name,
        _spread(figures, part["rate"], "lowest", "highest", "{:,.{digits}f}"),
        _spread(figures, "ratio", "ratio_lowest", "ratio_highest", "{:.2f}x"),
        *(
            _FORMATS[column][1].format(figures[column]) if column in figures else ""
            for column in part["shown"]
        ),
    ]


def _spread(figures: Mapping[str, float], middle: str, low: str, high: str, form: str) -> str:
    if middle not in figures:
        return ""
    digits = 0 if figures[middle] >= 100 else 2  # noqa: PLR2004
    texts = [form.format(figures[name], digits=digits) for name in (middle, low, high)]
    return f"{texts[0]} ({texts[1]} to {texts[2]})"
