import json

import pytest
from tests.support import finished_run as made

from qatune.errors import MissingInputError
from qatune.report.page import write_report
from qatune.report.summary import print_summary
from qatune.stages import evaluate
from qatune.store import manifests


def read(store, name):
    return store.objects[f"runs/{made.RUN}/evaluate/{name}"]


def test_metrics_and_manifest():
    store = made.finished(made.DictStore())
    found = json.loads(read(store, "metrics.json"))
    manifest, _ = manifests.load(store, made.RUN, "evaluate")
    assert (found["rows"], found["errors"]) == (240, 1)
    assert found["adapter"]["loss_per_token"] < found["base"]["loss_per_token"]
    assert [ref.key for ref in manifest.inputs if "/errors/" in ref.key]
    assert len(manifest.outputs) == 2


def test_report_is_the_same_when_written_again(tmp_path):
    store = made.finished(made.DictStore())
    write_report(store, made.RUN, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_bytes()
    assert page == read(store, "report.html")
    assert b"<script>alert(1)" not in page
    assert b"Held-out loss fell from" in page


def test_without_training_or_expected_answers(capsys):
    rows = made.answered(8, adapter=False, expected=False)
    store = made.finished(made.DictStore(), rows, (), adapter=False)
    print_summary(store, made.RUN)
    assert b"none could be scored" in read(store, "report.html")
    assert "held-out loss" not in capsys.readouterr().out


def test_damaged_part_is_refused():
    store = made.DictStore()
    stage = made.answers_only(store, made.answered(8))
    store.objects[f"runs/{made.RUN}/generate/parts/part-00000-00000.jsonl"] += b" "
    with pytest.raises(MissingInputError, match="damaged"):
        evaluate.run(stage)


def test_summary_is_plain_text(capsys):
    print_summary(made.finished(made.DictStore()), made.RUN)
    shown = capsys.readouterr().out
    assert "held-out loss fell from 2.10 to 1.70 (\N{MINUS SIGN}18.9 %)" in shown
    assert "\x1b" not in shown
    assert shown.count("What does") == 3
