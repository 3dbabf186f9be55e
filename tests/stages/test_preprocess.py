import csv
import errno
import importlib.util
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.support.tiny import tiny_gpt2

from qatune import recipe
from qatune.data.records import ROWS
from qatune.data.seen import SeenSet
from qatune.errors import BadDataError, MissingInputError, UnavailableError
from qatune.stages import preprocess
from qatune.store import manifests
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    return tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture
def rows_csv(tmp_path):
    """Forty good rows, and one of each kind that is rejected."""
    path = tmp_path / "rows.csv"
    rows = [[f"What is {n}?", f"It is {n} and “{n + 1}”.\n" * (n % 5 + 1)] for n in range(40)]
    bad = [["", "A"], [" ", "A"], ["Q", "\t"], ["Q", "a\0b"], rows[3], ["Q", "word " * 3000]]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["question", "answer"], *rows, *bad])
    with path.open("ab") as file:
        file.write(b"Q,\xff\r\nonly one cell\r\n")
    return path


def preprocessed(source, model, store=None, **data):
    store = MemoryStore() if store is None else store
    fields = {"model": {"source": str(model)}, "data": {"source": str(source), **data}}
    preprocess.run(StageRun.open(store, "r", "preprocess", recipe.validate(fields)))
    return store


def stored(store, *sides):
    for key in sorted(store.keys("runs/r/preprocess/")):
        if any(f"/{side}-" in key for side in sides or ("train", "test")):
            table = parquet.read_table(pa.BufferReader(store.read(key)))
            assert table.schema.equals(ROWS)
            yield from table.to_pylist()


def manifest(store):
    return manifests.load(store, "r", "preprocess")[0]


def objects(store):
    return {
        key: store.read(key)
        for key in store.keys("runs/r/preprocess/")
        if not key.endswith(("manifest.json", "progress.json"))
    }


def test_every_row_is_kept_once_or_rejected_with_its_reason(rows_csv, gpt2):
    store = preprocessed(rows_csv, gpt2)
    rejected = [
        json.loads(line)
        for line in store.read("runs/r/preprocess/rejected.jsonl").decode().splitlines()
    ]
    assert [(one["row"], one["reason"]) for one in rejected] == [
        (41, "null"), (42, "empty_question"), (43, "empty_answer"), (44, "nul_byte"),
        (45, "duplicate"), (46, "too_long"), (47, "undecodable"), (48, "malformed"),
    ]  # fmt: skip
    assert max(len(one["answer"] or "") for one in rejected) == 200
    kept = list(stored(store))
    assert sorted(int(row["id"]) for row in kept) == list(range(1, 41))
    counters = manifest(store).counters
    assert counters["rows_read"] == 48
    assert counters["rows_kept"] == 40 == counters["rows_train"] + counters["rows_test"]
    assert counters["rejected_too_long"] == 1
    assert counters["tokens"] == sum(len(row["input_ids"]) for row in kept)
    assert counters["bytes_read"] == rows_csv.stat().st_size
    (read,) = (ref for ref in manifest(store).inputs if ref.key == str(rows_csv))
    assert (read.size, len(read.sha256)) == (rows_csv.stat().st_size, 64)


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_ids_are_prompt_completion_and_eos(rows_csv, model, request):
    from transformers import AutoTokenizer

    folder = request.getfixturevalue(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row in stored(preprocessed(rows_csv, folder)):
        prompt = f"### Question: {row['question']}\n### Answer:"
        ids, start = row["input_ids"], row["answer_start"]
        assert ids[:start] == tokenizer(prompt)["input_ids"]
        answer = tokenizer(" " + row["answer"], add_special_tokens=False)["input_ids"]
        assert ids[start:] == [*answer, tokenizer.eos_token_id]


def test_a_prompt_never_ends_with_the_eos_that_a_tokenizer_adds(rows_csv, llama, tmp_path):
    from tokenizers import processors
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A <|end|>", special_tokens=[("<|begin|>", 0), ("<|end|>", 1)]
    )
    shutil.copytree(llama, tmp_path / "ending")
    tokenizer.save_pretrained(tmp_path / "ending")
    for row in stored(preprocessed(rows_csv, tmp_path / "ending")):
        assert row["input_ids"].count(1) == 1
        assert row["input_ids"][-1] == 1
        assert row["input_ids"][row["answer_start"] - 1] != 1


def test_the_limit_counts_every_token_of_the_row(rows_csv, gpt2):
    lengths = [len(row["input_ids"]) for row in stored(preprocessed(rows_csv, gpt2))]
    limit = sorted(lengths)[20]
    short = [
        len(row["input_ids"]) for row in stored(preprocessed(rows_csv, gpt2, max_length=limit))
    ]
    assert sorted(short) == sorted(length for length in lengths if length <= limit)


def test_lengths_are_measured_before_the_limit(rows_csv, gpt2):
    store = preprocessed(rows_csv, gpt2, max_length=40)
    lengths = json.loads(store.read("runs/r/preprocess/lengths.json"))
    assert (lengths["unit"], lengths["limit"]) == ("tokens", 40)
    assert lengths["tokens"]["rows"] >= 40 > manifest(store).counters["rows_kept"]
    assert sum(lengths["characters"]["counts"]) == lengths["characters"]["rows"] == 41
    assert store.read("runs/r/preprocess/lengths.svg").startswith(b"<?xml")


@pytest.mark.parametrize(("method", "both"), [("group", 0), ("shuffle", 10)])
def test_questions_on_both_sides_are_counted_and_told_of(tmp_path, gpt2, capfd, method, both):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [[f"{' ' * (n % 2)}WHAT is {n % 4}?", f"It is {n}."] for n in range(40)]
        csv.writer(file).writerows([["question", "answer"], *rows])
    store = preprocessed(path, gpt2, split={"method": method, "test_size": 10})
    assert manifest(store).counters["questions_on_both_sides"] == both
    said = "10 of 10 held-out questions stand in the training rows, too: the held-out loss flatters"
    assert (said in capfd.readouterr().err) == bool(both)


@pytest.mark.parametrize("method", ["group", "shuffle"])
def test_sides_share_no_row(rows_csv, gpt2, method):
    store = preprocessed(rows_csv, gpt2, split={"method": method, "test_size": 0.25})
    train, test = ({row["id"] for row in stored(store, side)} for side in ("train", "test"))
    assert not train & test
    assert (len(train), len(test)) == (30, 10)


def test_several_files_are_read_in_their_order_and_numbered_on(tmp_path, gpt2):
    for name, word in (("b.jsonl", "b"), ("a.jsonl", "a")):
        lines = [json.dumps({"question": f"{word}{n}", "answer": "A"}) for n in range(5)]
        (tmp_path / name).write_text("\n".join(lines))
    (tmp_path / "README.md").write_text("not data")
    store = preprocessed(f"{tmp_path}/*", gpt2)
    found = sorted(stored(store), key=lambda row: int(row["id"]))
    assert [row["question"] for row in found] == [f"{w}{n}" for w in "ab" for n in range(5)]
    assert [row["row"] for row in found] == [1, 2, 3, 4, 5] * 2
    read = [ref.key for ref in manifest(store).inputs if not ref.key.startswith(str(gpt2))]
    assert read == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]


def test_parts_are_bounded_and_complete(rows_csv, gpt2, monkeypatch):
    monkeypatch.setattr("qatune.data.parts.PART_ROWS", 7)
    store = preprocessed(rows_csv, gpt2)
    parts = manifest(store).outputs_like(".parquet", prefix="train-")
    assert [ref.key[-19:] for ref in parts[:2]] == ["train-00000.parquet", "train-00001.parquet"]
    assert len(parts) == 5  # 32 rows
    assert len({row["id"] for row in stored(store)}) == 40


class FailingStore(MemoryStore):
    """Fails at the n-th object that is created."""

    def __init__(self):
        super().__init__()
        self.left = 10**6

    def create(self, key, source):
        if self.left == 0:
            raise UnavailableError("the store is gone")
        self.left -= 1
        return super().create(key, source)


@pytest.mark.parametrize("creates", [1, 2, 4, 6])
def test_a_retry_after_a_failure_writes_the_same_bytes(rows_csv, gpt2, creates):
    whole = objects(preprocessed(rows_csv, gpt2))
    store = FailingStore()
    store.left = creates
    with pytest.raises(UnavailableError):
        preprocessed(rows_csv, gpt2, store)
    assert not store.stat("runs/r/preprocess/manifest.json")
    store.left = 10**6
    preprocessed(rows_csv, gpt2, store)
    assert objects(store) == whole
    assert {ref.key for ref in manifest(store).outputs} == set(whole)


def bad(tmp_path, content, name="x.csv"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.csv: the file is empty"),
        (b"question,answer\n", "x.csv: there is no row in it, only a header"),
        (b"question,answer\n,A\nQ,\n ,A\n", "none of its 3 rows can be used (null 2, empty_quest"),
        (b"question,response\nQ,A\n", "column 'answer' not found in"),
        (b'question,answer\nQ,"A\n', "x.csv: the quote that opens in line 2 is never closed"),
        (b"question,answer\nQ,A\n", "leaves nothing to learn from; give more rows"),
        (b"question,answer\nQ,A\nQ,B\n", "all kept rows have the same question"),
    ],
)
def test_data_that_cannot_be_used_is_one_line_and_leaves_nothing(tmp_path, gpt2, content, message):
    store = MemoryStore()
    with pytest.raises(BadDataError, match=re.escape(message)) as caught:
        preprocessed(bad(tmp_path, content), gpt2, store)
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)
    assert not objects(store)


def test_a_file_of_an_unknown_kind(tmp_path, gpt2):
    with pytest.raises(BadDataError, match=r"x\.txt: unknown kind of file; its name must end in"):
        preprocessed(bad(tmp_path, b"text", "x.txt"), gpt2)


def test_a_missing_file(tmp_path, gpt2):
    with pytest.raises(MissingInputError, match=r"nothing\.csv"):
        preprocessed(tmp_path / "nothing.csv", gpt2)


def test_a_huge_cell_is_rejected_without_being_tokenized(tmp_path, gpt2, monkeypatch):
    good = b"".join(b"Q%d,A\n" % n for n in range(5))
    path = bad(tmp_path, b'question,answer\nQ,"' + b"a b " * 12_500_000 + b'"\n' + good)
    texts = []
    encode = preprocess.RowTokenizer.encode

    def watched(self, prompts, completions):
        texts.extend(completions)
        return encode(self, prompts, completions)

    monkeypatch.setattr(preprocess.RowTokenizer, "encode", watched)
    store = preprocessed(path, gpt2)
    assert texts == [" A"] * 5
    assert manifest(store).counters["rejected_too_long"] == 1
    assert len(store.read("runs/r/preprocess/rejected.jsonl")) < 400


@pytest.mark.parametrize("call", ["write_batch", "add"])
def test_a_full_disk_is_one_line(rows_csv, gpt2, monkeypatch, call):
    def full(*_):
        if call == "add":
            raise sqlite3.OperationalError("database or disk is full")
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = SeenSet if call == "add" else preprocess
    monkeypatch.setattr(owner, "add" if call == "add" else "_row_batch", full)
    with pytest.raises(UnavailableError, match=r"disk is full; make room or set TMPDIR"):
        preprocessed(rows_csv, gpt2)


def test_a_tokenizer_without_eos_is_refused(rows_csv, gpt2, tmp_path):
    mute = tmp_path / "mute"
    shutil.copytree(gpt2, mute)
    config = json.loads((mute / "tokenizer_config.json").read_text())
    config.pop("eos_token")
    (mute / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}))
    with pytest.raises(MissingInputError, match=r"mute: the tokenizer has no EOS token"):
        preprocessed(rows_csv, mute)


def test_no_torch_is_needed(rows_csv, gpt2, tmp_path):
    recipe = tmp_path / "plain.yaml"
    fields = {"model": {"source": str(gpt2)}, "data": {"source": str(rows_csv)}}
    recipe.write_text(json.dumps({"recipe": fields}))
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from qatune.cli import main\n"
        f"sys.argv = ['qatune', 'preprocess', '--run', 'x', '--recipe', {str(recipe)!r},"
        f" '--store', {str(tmp_path / 'store')!r}]\n"
        "main()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store/runs/x/preprocess/manifest.json").is_file()


def test_the_reference_counts(tmp_path):
    gpt2 = tiny_gpt2(tmp_path / "gpt2", positions=1024)
    spec = importlib.util.spec_from_file_location("made", SCRIPTS / "make_reference_csv.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.write(tmp_path / "glaive.csv")
    counters = manifest(
        preprocessed(
            tmp_path / "glaive.csv",
            gpt2,
            length_unit="characters",
            max_length=1023,
            drop_duplicates=False,
            split={"method": "shuffle", "test_size": 0.2, "seed": 42},
        )
    ).counters
    assert counters["rows_read"] - counters["rejected_null"] == 136_108
    assert counters["rows_kept"] == 24_899
    assert (counters["rows_train"], counters["rows_test"]) == (19_919, 4_980)


def test_rows_that_the_model_cannot_hold_are_rejected_whatever_the_limit(tmp_path, gpt2):
    path = tmp_path / "wide.csv"
    rows = [f"Short {n}?,yes" for n in range(3)] + [
        f"Q{n}?," + "\u4e16" * 100 for n in range(2)
    ]  # 3 tokens a sign
    path.write_text("\n".join(["question,answer", *rows]), encoding="utf-8")
    store = preprocessed(
        path, gpt2, length_unit="characters", max_length=150, drop_duplicates=False
    )
    counters = manifest(store).counters
    assert (counters["rows_kept"], counters["rejected_too_long_for_model"]) == (3, 2)
    assert all(len(row["input_ids"]) <= 128 for row in stored(store))


def test_a_model_without_a_tokenizer_is_refused(rows_csv, gpt2, tmp_path):
    mute = tmp_path / "mute"
    shutil.copytree(gpt2, mute, ignore=shutil.ignore_patterns("tok*", "vocab*", "merges*"))
    with pytest.raises(MissingInputError, match=r"no tokenizer: none of tokenizer\.json"):
        preprocessed(rows_csv, mute)


def test_the_tokenizer_is_part_of_the_manifest(rows_csv, gpt2):
    read = {ref.key for ref in manifest(preprocessed(rows_csv, gpt2)).inputs}
    assert {f"{gpt2}/tokenizer.json", f"{gpt2}/tokenizer_config.json"} <= read


def test_tests_stand_beside_their_rows(tmp_path, gpt2):
    path = tmp_path / "tested.csv"
    with path.open("w", newline="") as file:
        rows = [(f"Q{n}", "A", f"assert {n}" if n % 3 else "") for n in range(12)]
        csv.writer(file).writerows([("question", "answer", "tests"), *rows])
    found = stored(preprocessed(path, gpt2, columns={"tests": "tests"}))
    assert {row["question"]: row["tests"] for row in found} == {
        question: tests or None for question, _, tests in rows
    }
    assert {row["tests"] for row in stored(preprocessed(path, gpt2))} == {None}
