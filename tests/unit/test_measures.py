import math

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from qatune.data.measures import measure, metrics
from qatune.data.records import Answer, AnsweredRow

TEXTS = [("the cat sat on the mat", "the cat sat on a mat", 1.0, 1), ("", "b c d e", 3.0, 3)]
ROWS = [
    AnsweredRow(
        str(n), "q", right, tokens, 2, Answer(given, 4 + n, "stop" if n else "length", nll), None
    )
    for n, (given, right, nll, tokens) in enumerate(TEXTS)
]


def test_agrees_with_the_libraries_called_directly():
    found = measure(ROWS, "base")
    given, right = [text[0] for text in TEXTS], [text[1] for text in TEXTS]
    scorer = RougeScorer(["rougeL"])
    rouge = [scorer.score(r, g)["rougeL"].fmeasure for g, r in zip(given, right, strict=True)]
    assert found["chrf"] == sacrebleu.corpus_chrf(given, [right]).score
    assert found["bleu"] == sacrebleu.corpus_bleu(given, [right]).score
    assert found["rouge_l"] == pytest.approx(sum(rouge) / 2)


def test_loss_is_weighted_by_tokens():
    found = measure(ROWS, "base")
    assert found["loss_per_token"] == 2.5
    assert found["perplexity"] == pytest.approx(math.exp(2.5))
    assert (found["scored_rows"], found["scored_tokens"]) == (2, 4)


def test_shape():
    found = measure(ROWS, "base")
    assert (found["mean_tokens"], found["mean_characters"]) == (4.5, 11)
    assert (found["truncated_share"], found["empty_share"]) == (0.5, 0.5)


def test_without_expected_answers_nothing_is_compared():
    rows = [AnsweredRow("1", "q", None, None, 2, Answer("a", 1, "stop", None), None)]
    done = []
    found = metrics(rows, errors=1, advance=done.append)
    assert sum(done) == 2
    assert found["adapter"] is None
    assert {name for name, value in found["base"].items() if value is None} == {
        "loss_per_token", "perplexity", "chrf", "bleu", "rouge_l",
    }  # fmt: skip
    assert found["signatures"] is None


def test_names_the_variants_of_what_was_measured():
    found = metrics(ROWS, errors=0, advance=[].append)["signatures"]
    assert found["bleu"].startswith("nrefs:1|case:mixed")
    assert found["chrf"].startswith("nrefs:1|case:mixed")
