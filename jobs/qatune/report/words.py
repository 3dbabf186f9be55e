"""What the page says in sentences of its own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qatune.report import charts

_NAMED_STEPS = 5
# How tokenizers write the token that ends a text: <eos>, </s>, <|endoftext|>, <|im_end|>.
_END_MARK = re.compile(r"<[^<>\s]{1,40}>\s*$")


@dataclass(frozen=True)
class Sample:
    """A training row as the model saw it."""

    id: str
    prompt: str
    learned: str
    end_mark: str
    """The part of what is learned that ends the text; empty where that does not end so."""
    tokens: int


def sample(found: Mapping[str, Any] | None) -> Sample | None:
    if found is None:
        return None
    learned = str(found["learned"])
    mark = _END_MARK.search(learned) if found["ends_with_eos"] else None
    end = mark.start() if mark else len(learned)
    return Sample(
        str(found["id"]), str(found["prompt"]), learned[:end], learned[end:], found["tokens"]
    )


def not_numbers(steps: Sequence[Mapping[str, Any]]) -> str:
    """Name the steps at which the curve of the gradient's norm has no value to draw."""
    missing = charts.broken(steps)
    if not missing:
        return ""
    named = ", ".join(f"{step:,}" for step in missing[:_NAMED_STEPS])
    more = f" and {len(missing) - _NAMED_STEPS:,} more" if len(missing) > _NAMED_STEPS else ""
    return f"\N{MULTIPLICATION SIGN} not a number at step {named}{more}"


def finish(found: Mapping[str, int] | None) -> str:
    """Say how many answers were cut off, and whose; nothing where none was."""
    if found is None or not any(rows for kind, rows in found.items() if "truncated" in kind):
        return ""
    return (
        f"Both answers are finished in {found['both_finished']:,} rows; "
        f"the base's alone is cut off in {found['base_truncated']:,}, "
        f"the adapter's alone in {found['adapter_truncated']:,}, "
        f"both in {found['both_truncated']:,}."
    )
