import io
import json
import math
from dataclasses import replace

import pytest
from pyarrow import parquet
from tests.support import finished_run as made

from qatune.errors import MissingInputError, QatuneError
from qatune.evaluation import rows as measured_rows
from qatune.evaluation.comparing import metrics
from qatune.report.page import write_report
from qatune.report.summary import print_summary
from qatune.stages import evaluate
from qatune.store import manifests
from qatune.store.artifacts import StageRun
from qatune.store.folder import FolderStore
from qatune.store.memory import MemoryStore
from qatune.store.objects import describe_source


def read(store, name):
    return store.read(f"runs/{made.RUN}/evaluate/{name}")


def test_metrics_and_manifest():
    store = made.finished()
    found = json.loads(read(store, "metrics.json"))
    manifest, _ = manifests.load(store, made.RUN, "evaluate")
    assert (found["rows"], found["errors"]) == (240, 1)
    loss = found["measures"]["loss_per_token"]
    assert loss["adapter"] < loss["base"]
    assert manifest.counters["verdict"] == found["verdict"]["outcome"] == "better"
    assert [ref.key for ref in manifest.inputs if "/parts/" in ref.key]
    names = {ref.key.split("/")[-1] for ref in manifest.outputs}
    assert names == {"metrics.json", "rows.parquet", "report.html"}


def test_rows_as_parquet_are_those_of_the_parts():
    store = made.finished()
    rows = parquet.read_table(io.BytesIO(read(store, "rows.parquet")))
    answered = made.answered()
    assert rows.schema.equals(measured_rows.schema())
    assert rows["id"].to_pylist() == [row.id for row in answered]
    assert rows["adapter_text"].to_pylist() == [row.adapter.text for row in answered]
    assert rows["base_loss"].to_pylist() == [row.base.nll for row in answered]


def test_a_start_elsewhere_goes_on_from_what_is_there(monkeypatch):
    """Another processor may sum up to another last digit."""
    store = MemoryStore()
    stage = made.answers_only(store, made.answered(8))
    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "finish", lambda _: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            evaluate.run(stage)
    names = ("rows.parquet", "metrics.json", "report.html")
    before = [read(store, name) for name in names]

    def elsewhere(*given, **named):
        found = metrics(*given, **named)
        loss = found.measures["loss_per_token"]
        nearly = loss.model_copy(update={"base": math.nextafter(loss.base, 9)})
        return found.model_copy(update={"measures": found.measures | {"loss_per_token": nearly}})

    monkeypatch.setattr(evaluate, "metrics", elsewhere)
    evaluate.run(stage.anew())
    assert [read(store, name) for name in names] == before
    assert manifests.load(store, made.RUN, "evaluate")


@pytest.mark.parametrize("content", [b"something else", None])
def test_measures_of_other_answers_are_refused(content):
    store = MemoryStore()
    stage = made.answers_only(store, made.answered(8))
    other = read(made.finished(made.answered(7), ()), "metrics.json")
    store.create(stage.key("metrics.json"), content or other)
    with pytest.raises(MissingInputError, match="not the measures of these answers; delete it"):
        evaluate.run(stage)


@pytest.mark.parametrize("name", ["rows.parquet", "report.html"])
def test_other_outputs_than_these_are_refused(name):
    store = MemoryStore()
    stage = made.answers_only(store, made.answered(8))
    store.create(stage.key(name), b"something else")
    with pytest.raises(QatuneError, match=name):
        evaluate.run(stage)


def test_a_run_that_another_version_has_measured_says_what_to_do(tmp_path):
    store = made.finished(made.answered(4), ())
    key = f"runs/{made.RUN}/evaluate/metrics.json"
    manifest, _ = manifests.load(store, made.RUN, "evaluate")
    old = json.dumps({"rows": 4, "errors": 0, "base": {}, "adapter": {}}).encode()
    refs = [describe_source(key, old) if ref.key == key else ref for ref in manifest.outputs]
    store.replace(key, old)
    forged = manifest.model_copy(update={"outputs": refs})
    store.replace(manifests.manifest_key(made.RUN, "evaluate"), manifests.encode(forged))
    with pytest.raises(MissingInputError, match="written by another version of qatune; delete"):
        write_report(store, made.RUN, tmp_path / "page.html")


def test_rows_that_an_adapter_from_elsewhere_did_not_learn_are_not_held_against_it():
    store, rows = MemoryStore(), made.answered(8)
    training = [("t1", rows[0].question, rows[0].expected)]
    evaluate.run(made.answers_only(store, rows, training=training, source_of_adapter="s3://a/b"))
    found = json.loads(read(store, "metrics.json"))
    assert (found["duplicates"]["near"], found["warnings"]) == (0, [])
    assert "training_overlap" not in found["measures"]
    manifest, _ = manifests.load(store, made.RUN, "evaluate")
    assert not [ref.key for ref in manifest.inputs if "train-" in ref.key]


def test_the_manifest_says_the_verdict_also_where_there_is_no_loss():
    store = made.finished(made.answered(8, expected=False), ())
    manifest, _ = manifests.load(store, made.RUN, "evaluate")
    assert manifest.counters["verdict"] == "no measurable difference"
    assert "base_loss_per_token" not in manifest.counters


def test_training_rows_are_held_against_the_answers():
    store = MemoryStore()
    first, second, *_ = rows = made.answered(8)
    training = [("t1", first.question, first.expected), ("t2", "Another?", second.adapter.text)]
    evaluate.run(made.answers_only(store, rows, training=training))
    found = json.loads(read(store, "metrics.json"))
    assert found["duplicates"]["pairs"][0]["training"] == "t1"
    manifest, _ = manifests.load(store, made.RUN, "evaluate")
    assert [ref.key for ref in manifest.inputs if ref.key.endswith("train-00000.parquet")]


def test_report_is_the_same_when_written_again(tmp_path):
    store = made.finished(store=FolderStore(str(tmp_path / "store")))
    write_report(store, made.RUN, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_bytes()
    assert page == read(store, "report.html")
    assert b"<script>alert(1)" not in page
    assert b"Better: loss per token from 2.1019 to" in page
    assert b"240 held-out rows" in page


def test_without_training_or_expected_answers(capsys):
    rows = made.answered(8, adapter=False, expected=False)
    store = made.finished(rows, (), adapter=False)
    print_summary(store, made.RUN)
    assert b"The base model alone: nothing to compare it with." in read(store, "report.html")
    assert json.loads(read(store, "metrics.json"))["signatures"] is None
    assert "difference" not in capsys.readouterr().out


def test_questions_of_a_file_are_not_called_held_out():
    store = made.finished(made.answered(8), questions="questions.jsonl")
    page = read(store, "report.html")
    assert b"over 8 rows" in page
    assert b"over 8 held-out rows" not in page


def test_only_errors():
    store = made.finished([])
    found = json.loads(read(store, "metrics.json"))
    assert (found["rows"], found["errors"], found["measures"]) == (0, 1, {})
    assert found["verdict"]["outcome"] == "not compared"
    assert b"No question was answered" in read(store, "report.html")


def test_report_tells_where_everything_comes_from():
    store = made.finished()
    page = read(store, "report.html").decode()
    for name in ("preprocess", "train", "generate"):
        manifest, digest = manifests.load(store, made.RUN, name)
        assert digest in page
        assert manifest.device in page
        for ref in manifest.outputs:
            assert ref.key in page
            assert ref.sha256 in page
    assert "paged_adamw_32bit needs a GPU" in page
    for kind in (*manifests.SECONDS, "tokens/s", "padding", "of peak"):
        assert f'<th scope="col">{kind}</th>' in page
    assert "<td>12.3</td><td>0.0</td>" in page
    assert "<td>1,234</td><td>12.3%</td><td>41.2%</td>" in page
    assert "nrefs:1|case:mixed" in page


def test_damaged_part_is_refused():
    store = MemoryStore()
    stage = made.answers_only(store, made.answered(8))
    key = f"runs/{made.RUN}/generate/parts/part-00000-00000.jsonl"
    store.replace(key, store.read(key) + b" ")
    with pytest.raises(MissingInputError, match="damaged"):
        evaluate.run(stage)


def test_summary_is_plain_text(capsys):
    print_summary(made.finished(), made.RUN)
    shown = capsys.readouterr().out
    assert shown.startswith(
        "Better: loss per token from 2.1019 to 1.8219, \N{MINUS SIGN}0.2800 (95 %"
    )
    assert "\N{MINUS SIGN}26.7 to \N{MINUS SIGN}11.7 points" in shown
    assert "\x1b" not in shown
    assert shown.count("What does") == 3
    seconds = shown[shown.index("seconds of") :].split()
    assert seconds[2:8] == ["working", "sum", "tokens/s", "padding", "of", "peak"]
    assert "12.3 12.3 \N{EN DASH} \N{EN DASH} \N{EN DASH}" in " ".join(seconds)
    assert "0.0 0.0 1,234 12.3% 41.2%" in " ".join(seconds)


def test_summary_names_the_report_on_one_line(tmp_path, capsys):
    folder = tmp_path / ("deep" * 30)
    print_summary(made.finished(store=FolderStore(str(folder))), made.RUN)
    line = f"report: {folder}/runs/{made.RUN}/evaluate/report.html"
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_summary_drops_what_steers_a_terminal(capsys):
    (row,) = made.answered(1)
    text = "a\x1b[31mb\u202ecd"
    print_summary(made.finished([replace(row, question=text)], ()), made.RUN)
    assert "a[31mbcd" in capsys.readouterr().out
