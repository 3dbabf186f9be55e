"""The measures of each row as a table: what `evaluate/rows.parquet` holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from qatune.data.records import Answer, AnsweredRow, ExecutedRow
from qatune.evaluation import code, shape
from qatune.evaluation.repeats import Repeats
from qatune.evaluation.spreading import spread
from qatune.evaluation.texts import Likeness, likeness

VARIANTS = ("base", "adapter")

ROW_FIELDS = (
    ("id", pa.string(), "Of the input."),
    ("question", pa.string(), ""),
    ("expected", pa.string(), "The expected answer, where the input has one."),
    ("expected_tokens", pa.int32(), "Its tokens, end mark included."),
    ("near_duplicate", pa.string(), "Id of the training row that is most like this one."),
    ("near_duplicate_similarity", pa.float64(), "Jaccard similarity of their shingles, 0.8 to 1."),
)
"""Columns of a row: name, type, meaning."""

VARIANT_FIELDS = (
    ("text", pa.string(), "The answer."),
    ("tokens", pa.int32(), "Generated tokens, end mark included."),
    ("finish", pa.string(), "`stop`, or `length` where it was cut off at the limit."),
    ("loss", pa.float64(), "Of the expected answer, nats per token."),
    ("chrf", pa.float64(), "sacrebleu's sentence score, 0 to 100."),
    ("bleu", pa.float64(), "sacrebleu's sentence score, 0 to 100."),
    ("rouge_l", pa.float64(), "rouge-score's F, 0 to 1."),
    ("exact_match", pa.bool_(), "Equal to the expected answer but for white space around it."),
    ("length_ratio", pa.float64(), "Tokens of the answer over tokens of the expected one."),
    ("repetition", pa.float64(), "Share of 4-grams of words that stood in the answer before."),
    ("looping", pa.bool_(), "Cut off while saying one piece again and again."),
    ("empty", pa.bool_(), "Nothing but white space."),
    ("code_blocks", pa.int32(), "Fenced blocks."),
    ("code_closed", pa.int32(), "Those of them that end."),
    ("code_python", pa.int32(), "Programs in it that should be Python: blocks, or the whole text."),
    ("code_parsed", pa.int32(), "Those of them that parse."),
    ("code_parses", pa.bool_(), "Whether its Python parses; null where none is there or expected."),
    ("training_overlap", pa.float64(), "Share of its 13-grams of words that training rows hold."),
    ("executed", pa.string(), "What its tests made of it, where the row has some."),
    ("executed_message", pa.string(), "What went wrong, in a line of at most 200 characters."),
)
"""Columns of each model's answer, under the name of the model: `base_text`, `adapter_text`."""


def schema() -> pa.Schema:
    named = [(name, kind) for name, kind, _ in ROW_FIELDS]
    return pa.schema(
        named
        + [(f"{variant}_{name}", kind) for variant in VARIANTS for name, kind, _ in VARIANT_FIELDS]
    )


def measured(
    rows: Sequence[AnsweredRow],
    repeats: Repeats | None,
    executed: Mapping[str, ExecutedRow] | None,
    *,
    advance: Callable[[int], None],
) -> pa.Table:
    """Measure every row, in the given order; `advance` hears of each.

    `repeats` has seen the training rows; None without any. `executed` is by id.
    """
    pairs = [(text, row.expected) for row in rows if row.expected is not None for text in row.texts]
    likenesses = spread(likeness, pairs, rows=len(rows))
    lines = []
    for number, row in enumerate(rows):
        ran = (executed or {}).get(row.id)
        lines.append(dict(_line(number, row, repeats, likenesses, ran)))
        advance(1)
    return pa.Table.from_pylist(lines, schema=schema())


def _line(
    number: int,
    row: AnsweredRow,
    repeats: Repeats | None,
    likenesses: Iterator[Likeness],
    executed: ExecutedRow | None,
) -> Iterator[tuple[str, Any]]:
    yield from (("id", row.id), ("question", row.question), ("expected", row.expected))
    yield "expected_tokens", row.expected_tokens
    python_expected = code.is_python(row.expected)
    near = repeats.near.get(number) if repeats else None
    if near:
        yield from (
            ("near_duplicate", near.training),
            ("near_duplicate_similarity", near.similarity),
        )
    for variant in VARIANTS:
        answer = getattr(row, variant)
        if answer is not None:
            like = next(likenesses) if row.expected is not None else None
            for name, value in _answer(row, answer, repeats, like, python_expected).items():
                yield f"{variant}_{name}", value
            if outcome := getattr(executed, variant, None):
                yield f"{variant}_executed", outcome.outcome
                yield f"{variant}_executed_message", outcome.message


def _answer(
    row: AnsweredRow,
    answer: Answer,
    repeats: Repeats | None,
    like: Likeness | None,
    python_expected: bool,
) -> dict[str, Any]:
    blocks = code.blocks(answer.text)
    parsed = [
        code.parses(each)
        for each in code.programs(answer.text, blocks, python_expected=python_expected)
    ]
    return {
        "text": answer.text,
        "tokens": answer.tokens,
        "finish": answer.finish,
        "loss": answer.nll,
        **(vars(like) if like else {}),
        "length_ratio": answer.tokens / row.expected_tokens if row.expected_tokens else None,
        "repetition": shape.repetition(answer.text),
        "looping": answer.finish == "length" and shape.ends_in_loop(answer.text),
        "empty": not answer.text.strip(),
        "code_blocks": len(blocks),
        "code_closed": sum(block.closed for block in blocks),
        "code_python": len(parsed),
        "code_parsed": sum(parsed),
        "code_parses": all(parsed) if parsed else None,
        "training_overlap": repeats.overlap(answer.text) if repeats else None,
    }
