"""Which measures two models are compared by, and which values of a row they average."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Values = Any
"""numpy, float64, a value a row; NaN where there is none."""
Better = Literal["lower", "higher", ""]


def _column(name: str) -> Callable[[pa.Table, str], Values]:
    def read(rows: pa.Table, variant: str) -> Values:
        return numbers(rows[f"{variant}_{name}"])

    return read


def numbers(column: pa.ChunkedArray) -> Values:
    """Turn numbers and booleans into floats; null and what is not finite into NaN."""
    # A column without any value in it may have no chunk.
    values = np.array(pc.cast(column, pa.float64()).to_pylist(), dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def _is(name: str, wanted: str) -> Callable[[pa.Table, str], Values]:
    def read(rows: pa.Table, variant: str) -> Values:
        return numbers(pc.equal(rows[f"{variant}_{name}"], wanted))

    return read


def _expected_tokens(rows: pa.Table) -> Values:
    return numbers(rows["expected_tokens"])


def _expected_bytes(rows: pa.Table) -> Values:
    return numbers(pc.binary_length(rows["expected"]))


def _bits(rows: pa.Table, variant: str) -> Values:
    """Return bits per byte of the expected answer, whatever its tokens are; end mark included."""
    nats = numbers(rows[f"{variant}_loss"]) * _expected_tokens(rows)
    size = _expected_bytes(rows)
    return np.divide(nats / math.log(2), size, out=np.full_like(nats, np.nan), where=size > 0)


@dataclass(frozen=True)
class Measure:
    """A mean over the rows that have a value."""

    key: str
    label: str
    form: str
    """How a value is written."""
    better: Better
    """Empty where neither is better in itself."""
    values: Callable[[pa.Table, str], Values]
    meaning: str
    weights: Callable[[pa.Table], Values] | None = None
    """What each row weighs by; None: all the same."""
    of_text: bool = False
    """Whether an answer that was cut off might have had another value uncut."""
    yes_or_no: bool = False

    def amount(self, value: float) -> str:
        """Write an amount of it, without its sign."""
        return self.form.format(abs(value)).replace("%", " points")

    def signed(self, value: float) -> str:
        """Write a difference."""
        amount = self.amount(value)
        if amount == self.amount(0):
            return "0"
        return ("+" if value > 0 else "\N{MINUS SIGN}") + amount

    def interval(self, low: float, high: float) -> str:
        unit = " points" if "%" in self.form else ""
        return f"{self.signed(low).removesuffix(unit)} to {self.signed(high)}"


LOSS = Measure(
    "loss_per_token", "Loss per token", "{:.4f}", "lower", _column("loss"),
    "How unlikely the model finds the expected answers: mean negative log-likelihood of their "
    "tokens, end mark included, in nats. Needs no generated text.",
    _expected_tokens,
)  # fmt: skip
BITS_PER_BYTE = Measure(
    "bits_per_byte", "Bits per byte", "{:.4f}", "lower", _bits,
    "The loss of the expected answers in bits, over their bytes: unlike the loss per token it can "
    "be compared between models that divide text into other tokens.",
    _expected_bytes,
)  # fmt: skip
_OTHERS = (
    Measure(
        "pass_at_1", "pass@1", "{:.1%}", "higher", _is("executed", "passed"),
        "Share of the answers whose code passes the tests of its row.",
        of_text=True, yes_or_no=True,
    ),
    Measure(
        "chrf", "chrF", "{:.2f}", "higher", _column("chrf"),
        "Overlap of answers and expected answers in sequences of characters, 0 to 100: mean of "
        "the rows' scores.", of_text=True,
    ),
    Measure(
        "bleu", "BLEU", "{:.2f}", "higher", _column("bleu"),
        "Overlap in sequences of up to four words, 0 to 100; too short answers lose. Mean of the "
        "rows' scores.", of_text=True,
    ),
    Measure(
        "rouge_l", "ROUGE-L", "{:.4f}", "higher", _column("rouge_l"),
        "Longest common sequence of words, gaps allowed: mean F of the rows, 0 to 1, by "
        "rouge-score's words, which are Latin letters and digits only.", of_text=True,
    ),
    Measure(
        "exact_match", "Exact match", "{:.1%}", "higher", _column("exact_match"),
        "Equal to the expected answer but for white space around it.",
        of_text=True, yes_or_no=True,
    ),
    Measure(
        "truncated_share", "Truncated answers", "{:.1%}", "lower", _is("finish", "length"),
        "Cut off at the limit of new tokens before the model ended them.", yes_or_no=True,
    ),
    Measure(
        "empty_share", "Empty answers", "{:.1%}", "lower", _column("empty"),
        "Nothing but white space.", yes_or_no=True,
    ),
    Measure(
        "repetition", "Repeated 4-grams", "{:.1%}", "lower", _column("repetition"),
        "Share of the sequences of four words that stood in the same answer before.",
        of_text=True,
    ),
    Measure(
        "looping_share", "Endless loops", "{:.1%}", "lower", _column("looping"),
        "Cut off while saying one piece again and again, over a third of the answer or more.",
        yes_or_no=True,
    ),
    Measure(
        "code_parses", "Code that parses", "{:.1%}", "higher", _column("code_parses"),
        "Of answers with Python in them, or where Python was expected: all of it parses.",
        of_text=True, yes_or_no=True,
    ),
    Measure(
        "length_ratio", "Length ratio", "{:.2f}", "", _column("length_ratio"),
        "Tokens of the answer over tokens of the expected one.", of_text=True,
    ),
    Measure(
        "mean_tokens", "Tokens per answer", "{:,.1f}", "", _column("tokens"),
        "Generated tokens, end mark included.", of_text=True,
    ),
    Measure(
        "training_overlap", "Overlap with training rows", "{:.1%}", "", _column("training_overlap"),
        "Share of the answers' sequences of 13 words that stand in a training row.", of_text=True,
    ),
)  # fmt: skip

OF_A_RUN = (LOSS, *_OTHERS)
"""For base and adapter of one run; the first that has values leads."""
ACROSS_RUNS = (BITS_PER_BYTE, *_OTHERS)
"""For models whose tokens may differ: their losses per token cannot be compared."""
BY_KEY = {measure.key: measure for measure in (*OF_A_RUN, BITS_PER_BYTE)}
