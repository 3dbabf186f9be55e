"""What the answers are worth, by measures that others can repeat.

Corpus measures of chrF, BLEU (sacrebleu, 0 to 100) and ROUGE-L (rouge-score, 0 to 1) compare an
answer with the expected one; the loss is that of the expected answer itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from qatune.data.records import Answer, AnsweredRow

Variant = Literal["base", "adapter"]
Measures = dict[str, float | int | None]


def metrics(
    rows: Sequence[AnsweredRow], errors: int, *, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Return the content of metrics.json; `advance` hears of as many rows as are done."""
    measured = {}
    for variant in ("base", "adapter"):
        measured[variant] = measure(rows, variant)
        advance(len(rows))
    compared = any(found and found["chrf"] is not None for found in measured.values())
    named = signatures() if compared else None
    return {"rows": len(rows), "errors": errors, **measured, "signatures": named}


def measure(rows: Sequence[AnsweredRow], variant: str) -> Measures | None:
    """Measure the answers of one model; None where it gave none."""
    pairs = [(row, answer) for row in rows if (answer := getattr(row, variant)) is not None]
    if not pairs:
        return None
    compared = [(answer.text, row.expected) for row, answer in pairs if row.expected is not None]
    return {**loss(pairs), **overlap(compared), **shape([answer for _, answer in pairs])}


def loss(pairs: Sequence[tuple[AnsweredRow, Answer]]) -> Measures:
    """Average the loss (nats) over the tokens of all expected answers, not over rows."""
    scored = [
        (answer.nll, row.expected_tokens)
        for row, answer in pairs
        if answer.nll is not None and math.isfinite(answer.nll) and row.expected_tokens
    ]
    tokens = sum(count for _, count in scored)
    mean = math.fsum(nll * count for nll, count in scored) / tokens if tokens else None
    return {
        "loss_per_token": mean,
        "perplexity": perplexity(mean),
        "scored_rows": len(scored),
        "scored_tokens": tokens,
    }


def perplexity(mean: float | None) -> float | None:
    """Return e to the loss; None for no loss, and for one too large to be raised."""
    try:
        return None if mean is None else math.exp(mean)
    except OverflowError:
        return None


def overlap(pairs: Sequence[tuple[str, str]]) -> Measures:
    """Compare (answer, expected) pairs; null where there are none."""
    if not pairs:
        return dict.fromkeys(("chrf", "bleu", "rouge_l"))
    from rouge_score.rouge_scorer import RougeScorer

    answers, expected = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scorer = RougeScorer(["rougeL"])
    shares = (scorer.score(right, given)["rougeL"].fmeasure for given, right in pairs)
    chrf, bleu = _corpus_scorers()
    return {
        "chrf": float(chrf.corpus_score(answers, [expected]).score),
        "bleu": float(bleu.corpus_score(answers, [expected]).score),
        "rouge_l": math.fsum(shares) / len(pairs),
    }


def shape(answers: Sequence[Answer]) -> Measures:
    """Lengths of the answers, and the shares that were cut off or hold nothing."""
    count = len(answers)
    return {
        "mean_tokens": sum(answer.tokens for answer in answers) / count,
        "mean_characters": sum(len(answer.text) for answer in answers) / count,
        "truncated_share": sum(answer.finish == "length" for answer in answers) / count,
        "empty_share": sum(not answer.text.strip() for answer in answers) / count,
    }


def signatures() -> dict[str, str]:
    """Name the variants of chrF and BLEU as sacrebleu asks to report them."""
    found = {}
    for name, scorer in zip(("chrf", "bleu"), _corpus_scorers(), strict=True):
        scorer.corpus_score(["a"], [["a"]])  # a signature names the number of references
        found[name] = str(scorer.get_signature())
    return found


def _corpus_scorers() -> tuple[Any, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    return CHRF(), BLEU()
