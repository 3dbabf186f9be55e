"""What a report is made of, made up: rows.parquet and metrics.json as they are written."""

from dataclasses import replace

import pyarrow as pa

from qatune.evaluation import rows as measured_rows
from qatune.evaluation.metrics import Metrics
from qatune.report import inputs
from qatune.report.page import render
from tests.support import finished_run as made

KEYS = {
    # base, adapter, detectable difference, verdict, rows less than all
    "loss_per_token": (2.1031, 1.7244, 0.021, "better", 0),
    "pass_at_1": (0.0125, 0.0417, 0.061, "no measurable difference", 0),
    "chrf": (21.83, 22.64, 1.9, "no measurable difference", 0),
    "bleu": (3.12, 4.87, 1.1, "better", 0),
    "rouge_l": (0.2144, 0.1671, 0.02, "worse", 0),
    "exact_match": (0.0, 0.0, None, "no measurable difference", 0),
    "truncated_share": (0.3333, 0.1417, 0.1, "better", 0),
    "empty_share": (0.0, 0.025, 0.05, "no measurable difference", 0),
    "repetition": (0.41, 0.12, 0.08, "better", 0),
    "looping_share": (0.02, 0.04, 0.05, "no measurable difference", 0),
    "code_parses": (0.5, 0.6, 0.3, "no measurable difference", 200),
    "length_ratio": (1.42, 0.61, 0.2, None, 0),
    "mean_tokens": (24.0, 9.0, 1.0, None, 0),
    "training_overlap": (0.012, 0.034, 0.05, None, 0),
}
OF_TEXT = ("chrf", "bleu", "rouge_l", "exact_match", "repetition", "length_ratio", "mean_tokens")
SAMPLE = {
    "id": "17",
    "prompt": "### Question: How is <b> written?\n### Answer:",
    "learned": " Between `<` and `>`.\n\nAs in HTML.<|endoftext|>",
    "tokens": 48,
    "ends_with_eos": True,
}
CHECKS = {
    "sample": SAMPLE,
    "rows_without_eos": 0,
    "supervised_share": 0.41,
    "warnings": ["34 of 500 steps taught nothing: their gradients overflowed"],
}


def measure(base, adapter, detectable, verdict, rows):
    found = {"rows": rows, "base": base, "adapter": adapter, "difference": adapter - base}
    error = detectable / 3.6 if detectable else None
    around = [adapter - base - 1.96 * error, adapter - base + 1.96 * error] if error else [None] * 2
    chance = {"better": 0.0002, "worse": 0.013}.get(verdict, 0.31)
    return found | {
        "low": around[0], "high": around[1], "p": chance if verdict else None,
        "p_adjusted": chance if verdict else None, "detectable": detectable, "verdict": verdict,
    }  # fmt: skip


def alone(found):
    return {"rows": found["rows"], "base": found["base"]} | dict.fromkeys(
        ("adapter", "difference", "low", "high", "p", "p_adjusted", "detectable", "verdict")
    )


VERDICTS = {
    "better": "Better: held-out loss per token fell by 0.379 nats (95 % interval 0.367 to 0.390).",
    "worse": "Worse: held-out loss per token rose by 0.379 nats (95 % interval 0.367 to 0.390).",
    "no measurable difference": "No measurable difference: held-out loss per token changed by "
    "+0.002 nats (95 % interval \N{MINUS SIGN}0.009 to +0.013); 0.021 could have been shown.",
    "not compared": "Not compared: this run has no adapter.",
}


def metrics(rows=240, outcome="better", **fields):
    """Make a metrics.json of so many rows."""
    measures = {key: measure(*of, max(rows - less, 0)) for key, (*of, less) in KEYS.items()}
    texts = {key: found for key, found in measures.items() if key in OF_TEXT}
    details = [
        "Also better: BLEU, truncated answers, repetition.", "Worse: ROUGE-L.",
        "No measurable difference: tests passed, chrF, exact match, empty answers, looping.",
    ]  # fmt: skip
    found = {
        "format": 2, "rows": rows, "errors": 1,
        "verdict": {"outcome": outcome, "measure": "loss_per_token", "sentence": VERDICTS[outcome],
                    "details": details},
        "statistics": {
            "confidence": 0.95, "resamples": 10_000, "seed": 0, "power": 0.8,
            "family": list(KEYS)[:11],
            "methods": {
                "interval": "95 % percentile bootstrap of the difference over rows",
                "p": "paired permutation test, two-sided",
                "family": "Holm's step-down over all measures that have a better direction",
                "detectable": "the difference that would be found in 80 % of such samples",
            },
        },
        "measures": measures,
        "apart": {"finished": {"rows": 100, "measures": texts},
                  "truncated": {"rows": 140, "measures": texts}},
        "finish": {"both_finished": 137, "base_truncated": 69, "adapter_truncated": 23,
                   "both_truncated": 11},
        "corpus": {"base": {"chrf": 21.8, "bleu": 3.1, "perplexity": 8.2},
                   "adapter": {"chrf": 22.1, "bleu": 4.4, "perplexity": 5.6}},
        "signatures": {"chrf": "nrefs:1|case:mixed", "bleu": "nrefs:1|tok:13a"},
        "execution": {"rows": 190, "base": {"passed": 3, "failed": 100, "error": 80, "timeout": 7},
                      "adapter": {"passed": 10, "failed": 120, "error": 50, "no_code": 10},
                      "passed_both": 2, "passed_base_only": 1, "passed_adapter_only": 8},
        "duplicates": {"near": 1, "pairs": [{"id": "5", "training": "902", "similarity": 0.91}]},
        "warnings": ["140 of 240 rows have an answer that was cut off: raise max_new_tokens."],
    } | fields  # fmt: skip
    return Metrics.model_validate(found).model_dump()


def without_adapter(rows=4):
    found = metrics(rows, "not compared")
    found["verdict"] |= {"measure": None, "details": []}
    measures = {key: alone(each) for key, each in found["measures"].items()}
    corpus = found["corpus"] | {"adapter": None}
    alone_ = {"measures": measures, "corpus": corpus, "execution": None, "apart": None}
    return Metrics.model_validate(found | alone_).model_dump()


def nothing_measured():
    """Make a metrics.json of no answers."""
    found = without_adapter(0)
    found["verdict"] |= {"sentence": "No question was answered."}
    nothing = {"measures": {}, "corpus": {"base": None, "adapter": None}, "signatures": None}
    none = {"duplicates": {"near": 0, "pairs": []}, "warnings": [], "finish": None}
    return Metrics.model_validate(found | nothing | none).model_dump()


def table(answered):
    """Make rows.parquet of answers: a near-duplicate, some broken code, some tests passed."""
    return pa.Table.from_pylist([_line(row) for row in answered], schema=measured_rows.schema())


def _line(row):
    line = {"id": row.id, "question": row.question, "expected": row.expected}
    line["expected_tokens"] = row.expected_tokens
    if row.id == "5":
        line |= {"near_duplicate": "902", "near_duplicate_similarity": 0.91}
    for variant, answer in (("base", row.base), ("adapter", row.adapter)):
        if answer is not None:
            line |= {f"{variant}_{name}": value for name, value in _answer(row, answer).items()}
    return line


def _answer(row, answer):
    """Measure an answer roughly: the page must only show it."""
    size = len(answer.text)
    scored = row.expected is not None
    code = "def " in answer.text or None
    return {
        "text": answer.text, "tokens": answer.tokens, "finish": answer.finish, "loss": answer.nll,
        "chrf": size % 97 + 0.25 if scored else None, "bleu": size % 13 + 0.5 if scored else None,
        "rouge_l": size % 7 / 7 if scored else None,
        "exact_match": answer.text == row.expected if scored else None,
        "length_ratio": answer.tokens / row.expected_tokens if scored else None,
        "repetition": size % 5 / 10,
        "looping": answer.finish == "length" and row.expected_tokens == 48,
        "empty": not answer.text.strip(), "code_blocks": 0, "code_closed": 0,
        "code_parses": code and answer.text.count("def") == 1,
        "training_overlap": 0.0,
        "executed": code and ("passed" if answer.text.count("def") == 1 else "error"),
        "executed_message": None,
    }  # fmt: skip


def found(answered, failed=made.FAILED, *, adapter=True, **fields):
    """Read a made-up run as evaluate does."""
    stage = made.answers_only(made.MemoryStore(), answered, failed, adapter=adapter, **fields)
    checks = CHECKS if adapter else None
    return replace(inputs.load(stage.store, stage.run, stage.recipe), checks=checks)


def page(answered=None, failed=made.FAILED, metrics_=None, **fields):
    """Render the page of a made-up run."""
    answered = made.answered() if answered is None else answered
    content = metrics_ or metrics(len(answered))
    return render(found(answered, failed, **fields), content, table(answered))
