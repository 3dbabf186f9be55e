import os
import random
from pathlib import Path

import pytest
from pyarrow import csv
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from qatune.evaluation import texts
from qatune.evaluation.spreading import spread

WORDS = "a list of numbers returns None if empty def sum : ( ) ünï 12 3.5 'x' …"


def pairs():
    """Answers and expected ones: real code where there is some, and made-up text."""
    made = random.Random(7)
    lines = [" ".join(made.choices(WORDS.split(), k=made.randrange(60))) for _ in range(120)]
    if folder := os.environ.get("QATUNE_TEST_DATA"):
        options = csv.ParseOptions(newlines_in_values=True)
        questions = csv.read_csv(Path(folder, "mbpp.csv"), parse_options=options)
        lines += questions["answer"].to_pylist()[:80]
    expected = list(lines)
    made.shuffle(expected)
    return [
        *zip(lines, expected, strict=True),
        ("same text", " same text\n"),
        ("", "a"),
        ("!", "?"),
    ]


def test_rows_agree_with_the_libraries_called_directly():
    chrf, bleu, rouge = CHRF(), BLEU(effective_order=True), RougeScorer(["rougeL"])
    for answer, expected in pairs():
        found = texts.likeness((answer, expected))
        assert found.chrf == chrf.sentence_score(answer, [expected]).score
        assert found.bleu == bleu.sentence_score(answer, [expected]).score
        direct = rouge.score(expected, answer)["rougeL"].fmeasure
        assert found.rouge_l == pytest.approx(direct, abs=1e-12)


def test_corpus_scores_agree_with_sacrebleu():
    some = pairs()
    answers, expected = [pair[0] for pair in some], [pair[1] for pair in some]
    assert texts.corpus(some) == {
        "chrf": CHRF().corpus_score(answers, [expected]).score,
        "bleu": BLEU().corpus_score(answers, [expected]).score,
    }


def test_exact_match_forgives_white_space_around_it():
    assert texts.likeness(("same text", " same text\n")).exact_match
    assert not texts.likeness(("same  text", "same text")).exact_match


def test_signatures_name_what_was_computed():
    found = texts.signatures()
    assert "eff:yes" in found["bleu"]
    assert "nc:6" in found["chrf"]


def test_processes_give_what_one_gives():
    some = pairs() * 3
    alone = [texts.likeness(pair) for pair in some]
    assert list(spread(texts.likeness, some, rows=100_000)) == alone
