"""The shapes of rows on their way through the stages."""

from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

ROWS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # 1-based record of that file
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),  # prompt, answer, EOS
        pa.field("answer_start", pa.int32(), nullable=False),  # index of the first answer token
        pa.field("tests", pa.string()),  # assertions about the answer's code
    ]
)

Reason = Literal[
    "null",  # a column is missing, null, or an empty CSV cell
    "empty_question",
    "empty_answer",  # white space only
    "undecodable",  # not UTF-8
    "nul_byte",
    "malformed",  # not a record: wrong number of cells, not a JSON object, not text
    "duplicate",  # question and answer were there before
    "duplicate_id",
    "too_long",
    "too_long_for_model",  # it has more tokens than the model has positions
]

Finish = Literal["stop", "length"]

ExecutionOutcome = Literal[
    "passed",
    "failed",  # an assertion of the tests did not hold
    "error",  # anything else was raised, or it ended before its tests did
    "timeout",
    "memory",
    "output",  # it printed more than anybody reads
    "no_code",  # there was nothing to run
]
MESSAGE_CHARACTERS = 200
EXECUTION_OUTCOMES: tuple[str, ...] = get_args(ExecutionOutcome)


@dataclass(frozen=True)
class SourceRow:
    """A question and its answer as they stand in the file."""

    file: str
    row: int
    """1-based record of that file; a header does not count."""
    question: str
    answer: str
    id: str | None = None
    tests: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A row that is not used, and why."""

    file: str
    row: int
    reason: Reason
    question: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Answer:
    """What one model made of one question."""

    text: str
    tokens: int
    """Generated tokens, the end mark included."""
    finish: Finish
    nll: float | None
    """Mean negative log-likelihood per token of the expected answer, its end mark included."""


@dataclass(frozen=True)
class AnsweredRow:
    """A line of `generate/parts/`: a row and its answers."""

    id: str
    question: str
    expected: str | None
    expected_tokens: int | None
    prompt_tokens: int
    base: Answer
    adapter: Answer | None

    @property
    def texts(self) -> list[str]:
        """The answers that there are."""
        return [answer.text for answer in (self.base, self.adapter) if answer]


@dataclass(frozen=True)
class FailedRow:
    """A line of `generate/parts/`, and again of `errors/`: a row without an answer, and why."""

    id: str
    question: str | None
    code: str
    message: str


Outcome = AnsweredRow | FailedRow


@dataclass(frozen=True)
class Executed:
    """What became of an answer's code when its row's tests were run."""

    outcome: ExecutionOutcome
    message: str
    """One line of at most MESSAGE_CHARACTERS."""


@dataclass(frozen=True)
class ExecutedRow:
    """A line of `evaluate/execution/`: what became of a row's answers."""

    id: str
    base: Executed
    adapter: Executed | None
