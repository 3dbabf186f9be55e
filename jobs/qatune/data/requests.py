"""Questions on their way to a model, whatever they were read from."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from qatune.data.seen import SeenSet, digest

# NUL and its kin, white space excepted: no question, and no terminal or log likes them.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Sampling:
    """How one row chooses its tokens, by the names of the recipe."""

    temperature: float = 0.0
    """0 takes the likeliest token each time; the other fields count above it only."""
    top_p: float = 1.0
    top_k: int = 0
    """0 considers every token."""
    seed: int = 0


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be answered."""

    code: str
    message: str


@dataclass(frozen=True)
class Question:
    """One row of the input. Each ends as one answer or one error."""

    id: str
    """Unique in the input; empty until `distinct` has named the row."""
    question: str | None
    max_new_tokens: int
    sampling: Sampling = Sampling()
    expected: str | None = None
    prompt_ids: Sequence[int] | None = None
    """Set where preprocess has tokenized the row."""
    expected_ids: Sequence[int] | None = None
    """The expected answer and EOS, where preprocess has tokenized the row."""
    custom_id: str | None = None
    """The name in an OpenAI batch, also where it is no unique one."""
    fault: Fault | None = None


def fault(text: str) -> Fault | None:
    """Name what makes a text no question."""
    if not text.strip():
        return Fault("empty_question", "the question is empty")
    if found := _CONTROL.search(text):
        return Fault(
            "control_characters",
            f"the question holds the control character U+{ord(found[0]):04X} "
            f"at position {found.start()}",
        )
    if not is_utf8(text):
        return Fault("undecodable", "the question holds half a surrogate pair: not text")
    return None


def is_utf8(text: str) -> bool:
    r"""Tell whether a text can be written: JSON's `\ud800` alone cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def distinct(questions: Iterable[Question]) -> Iterator[Question]:
    """Give every row an id of its own; one whose id was there before becomes an error row."""
    seen = SeenSet()

    def is_new(name: str) -> bool:
        return seen.add([digest(name)])[0]

    try:
        for number, question in enumerate(questions, start=1):
            if question.id and is_new(question.id):
                yield question
                continue
            reason = question.fault or Fault(
                "duplicate_id", f"the id {question.id!r} was there before: ids must be unique"
            )
            name = f"row-{number}"
            while not is_new(name):
                name += "+"
            yield replace(question, id=name, fault=reason)
    finally:
        seen.close()
