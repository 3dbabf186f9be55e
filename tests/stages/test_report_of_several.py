from dataclasses import replace

import pytest
from tests.support import finished_run as made
from tests.support.qatune_command import qatune

from qatune.data.records import FailedRow
from qatune.errors import MissingInputError, UsageError
from qatune.report import several
from qatune.store.folder import FolderStore
from qatune.store.memory import MemoryStore


def shifted(row, by):
    """The same row of a model whose loss differs by so much."""
    return replace(row, adapter=replace(row.adapter, nll=row.adapter.nll + by))


@pytest.fixture
def two():
    """Two runs of the same rows; in the other all losses but every 9th are lower."""
    rows = made.answered(60)
    better = [shifted(row, -0.3 if number % 9 else 0.1) for number, row in enumerate(rows)]
    store = MemoryStore()
    made.finished(rows, store=store, name="one")
    made.finished(better, store=store, name="other", source="models/larger")
    return store


def test_the_better_of_two_runs_is_named(two):
    found = several.comparison(two, ["one", "other"])
    (pair,) = found["pairs"]
    assert pair["sentence"].startswith("other is better than one: bits per byte from ")
    bits = pair["measures"]["bits_per_byte"]
    assert bits["verdict"] == "better"
    assert bits["low"] < bits["difference"] < bits["high"] < 0
    assert pair["measures"]["chrf"]["difference"] == 0
    (pair,) = several.comparison(two, ["other", "one"])["pairs"]
    assert pair["sentence"].startswith("one is worse than other")


def test_the_table_has_what_the_manifests_say(two):
    one, other = several.comparison(two, ["one", "other"])["runs"]
    assert (one["name"], one["steps"], one["rows"]) == ("one", 120, 60)
    assert (one["heldout_loss"], other["model"]) == (1.703, "models/larger")
    assert one["verdict"]["outcome"] == "better"
    assert one["measures"]["loss_per_token"]["base"] > one["measures"]["loss_per_token"]["adapter"]


def test_rows_that_a_run_has_no_answer_to_are_left_out(two):
    rows = made.answered(60)
    failed = [*made.FAILED, FailedRow("60", rows[-1].question, "too_long", "fills the context")]
    made.finished(rows[:-1], failed, store=two, name="fewer")
    found = several.comparison(two, ["one", "fewer", "other"])
    assert found["shared_rows"] == 59
    assert "one answered 1 rows that another run has no answer to" in found["notes"][0]
    assert {pair["measures"]["chrf"]["rows"] for pair in found["pairs"]} == {59}
    assert [(pair["one"], pair["other"]) for pair in found["pairs"]] == [
        ("one", "fewer"), ("one", "other"), ("fewer", "other"),
    ]  # fmt: skip


def test_several_pairs_are_one_family(two):
    made.finished(made.answered(60), store=two, name="third")
    alone = several.comparison(two, ["one", "other"])["pairs"][0]
    (among, *_) = several.comparison(two, ["one", "other", "third"])["pairs"]
    ours, theirs = (pair["measures"]["bits_per_byte"] for pair in (alone, among))
    assert ours["p"] == theirs["p"]
    assert ours["p_adjusted"] < theirs["p_adjusted"]


def test_a_run_without_an_adapter_is_compared_by_its_base(two):
    made.finished(made.answered(60, adapter=False), store=two, name="bare", adapter=False)
    found = several.comparison(two, ["bare", "one"])
    assert found["notes"] == ["bare has no adapter: its base model is compared"]
    assert found["pairs"][0]["sentence"].startswith("one is better than bare")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "1 ids, as '60', are in one of them only"),
        (lambda rows: [replace(rows[0], expected="else"), *rows[1:]], "row '1' has other texts"),
        (lambda rows: [replace(rows[0], question="else?"), *rows[1:]], "row '1' has other texts"),
    ],
)
def test_runs_of_other_rows_are_refused(two, change, message):
    made.finished(change(made.answered(60)), store=two, name="stranger")
    with pytest.raises(MissingInputError, match=message):
        several.comparison(two, ["one", "stranger"])


def test_a_run_named_twice_is_refused(two):
    with pytest.raises(UsageError, match="named twice"):
        several.comparison(two, ["one", "one"])


def test_the_command_writes_one_page_and_says_the_verdict(tmp_path):
    store = FolderStore(str(tmp_path / "store"))
    rows = made.answered(30)
    made.finished(rows, store=store, name="one")
    made.finished([shifted(row, -0.3) for row in rows], store=store, name="other")
    page = tmp_path / "both.html"
    done = qatune("report", "one", "other", "--store", store.uri, "--output", page)
    assert done.returncode == 0, done.stderr
    assert "other is better than one: bits per byte" in done.stdout
    content = page.read_text(encoding="utf-8")
    assert "other is better than one" in content
    done = qatune("report", "one", "none", "--store", store.uri, "--output", page)
    assert done.returncode == 66
    assert "no run 'none'" in done.stderr
