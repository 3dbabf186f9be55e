"""The content of metrics.json, which docs/metrics.md describes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from qatune.evaluation import statistics
from qatune.evaluation.verdicts import Verdict


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Compared(_Part):
    """One measure of base and adapter, over the rows that have a value of both."""

    rows: int
    base: float | None
    adapter: float | None
    difference: float | None
    """The adapter's less the base's."""
    low: float | None
    """Lower end of the difference's 95 % interval. Null for one row, or where no row differs."""
    high: float | None
    p: float | None
    """Chance of a difference as large where there is none; null outside of the family."""
    p_adjusted: float | None
    """By Holm, for the number of measures in the family."""
    detectable: float | None
    """A difference that so many rows show in four of five cases; null where they can show none."""
    verdict: Literal["better", "worse", "no measurable difference"] | None


class Apart(_Part):
    """Some of the rows, compared by what depends on the text; a family of their own."""

    rows: int
    measures: dict[str, Compared]


class AllApart(_Part):
    """A cut answer is no worse answer: those that ended and those that were cut, apart."""

    finished: Apart
    """Rows in which no answer was cut off at the limit."""
    truncated: Apart
    """Rows in which at least one was."""


class Finish(_Part):
    """Rows by which of their answers was cut off at the limit."""

    both_finished: int
    base_truncated: int
    """The base's alone."""
    adapter_truncated: int
    """The adapter's alone."""
    both_truncated: int


class Statistics(_Part):
    """How differences were tested."""

    confidence: float = statistics.CONFIDENCE
    resamples: int = statistics.RESAMPLES
    seed: int = statistics.SEED
    power: float = statistics.POWER
    family: list[str]
    """Measures that the p-values were adjusted for."""
    methods: dict[str, str] = Field(default_factory=lambda: dict(statistics.METHODS))


class Corpus(_Part):
    """Scores of all answers as one text, as papers report them; null without expected answers."""

    chrf: float | None
    bleu: float | None
    perplexity: float | None
    """e to the loss per token."""


class BothCorpora(_Part):
    """Of each model."""

    base: Corpus | None
    adapter: Corpus | None


class Execution(_Part):
    """What the tests made of the answers: counts by outcome."""

    rows: int
    base: dict[str, int]
    adapter: dict[str, int] | None
    passed_both: int
    passed_base_only: int
    passed_adapter_only: int


class Pair(_Part):
    """A held-out row and the training row that is most like it."""

    id: str
    training: str
    similarity: float


class Duplicates(_Part):
    """Held-out rows that training rows nearly hold: they flatter whoever was trained on them."""

    near: int
    pairs: list[Pair]
    """At most 20."""


class Metrics(_Part):
    """What evaluate measured."""

    format: int = 2
    rows: int
    """Answered ones."""
    errors: int
    """Rows without an answer."""
    verdict: Verdict
    statistics: Statistics
    measures: dict[str, Compared]
    """By name; base alone where there is no adapter."""
    apart: AllApart | None
    finish: Finish | None
    corpus: BothCorpora
    signatures: dict[str, str] | None
    """sacrebleu's, of the rows' chrF and BLEU."""
    execution: Execution | None
    """Null where no tests were run."""
    duplicates: Duplicates
    warnings: list[str]
    """What a reader has to know before the numbers, in plain words."""
