"""Bad input through the real command line: one clear line, the right code, nothing lost."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from tests.support.tiny import tiny_llama

from qatune import cli, log
from qatune.store.opening import open_store

GOOD = "question,answer\n" + "".join(f"What is {n}?,It is {n}.\n" for n in range(20))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def command(monkeypatch, capsys):
    """Call qatune as its console script does; return exit code and the last line on stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["qatune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr().err
        assert "Traceback" not in shown
        return ended.value.code, (shown.strip().splitlines() or [""])[-1]

    monkeypatch.setattr(log, "console", log.Console(stderr=True, highlight=False))
    return call


@pytest.fixture
def preprocess(command, tmp_path, model):
    """Run the first stage over a file with the given content."""

    def call(
        content, *, name="qa.csv", store=None, source=None, data=None, base=None, generate=None
    ):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        fields = {
            "model": {"source": str(base or model)},
            "data": {"source": str(source or path), "max_length": 100, **(data or {})},
            "train": {"max_steps": 1},
            "generate": generate or {},
        }
        recipe = tmp_path / "bad.yaml"
        recipe.write_text(yaml.safe_dump({"recipe": fields}))
        where = store or tmp_path / "store"
        return command("preprocess", "--run", "bad", "--recipe", recipe, "--store", where)

    return call


@pytest.mark.parametrize(
    ("content", "code", "part"),
    [
        ("", 65, "empty"),
        ("question,answer\n", 65, "only a header"),
        ("question,reply\na,b\n", 65, "column 'answer' not found"),
        ("question,answer\na,\nb,\n", 65, "null 2"),
        (GOOD + 'Why?,"It never ends\n' + GOOD, 65, "line 22"),
        (b"question,answer\n\xff\xfe,yes\nWhy\0?,no\n", 65, "undecodable 1"),
        (GOOD.encode("utf-16"), 65, "this is a UTF-16 file, not CSV"),
        ('"a\nb",c\n1,2\n', 65, "it has: a\\nb, c"),
    ],
    ids=[
        "empty",
        "header-only",
        "column",
        "all-rejected",
        "quote",
        "undecodable",
        "utf-16",
        "odd",
    ],
)
def test_files_that_cannot_be_used(preprocess, content, code, part):
    found, line = preprocess(content)
    assert found == code, line
    assert part in line


def test_a_missing_file_and_what_a_hub_id_needs(preprocess):
    code, line = preprocess("", source="nowhere/at-all")
    assert code == 66
    assert "nowhere/at-all" in line
    assert "revision" in line


def test_a_cell_of_50_mb_costs_its_row_alone(preprocess, tmp_path):
    code, line = preprocess(GOOD + "Why?," + "x" * 50_000_000 + "\n" + "Last?,Yes.\n")
    assert code == 0, line
    rejected = (tmp_path / "store/runs/bad/preprocess/rejected.jsonl").read_text()
    assert '"too_long"' in rejected
    assert len(rejected) < 10_000


def test_bytes_that_are_not_text_cost_their_rows_alone(preprocess, tmp_path):
    code, line = preprocess(GOOD.encode() + b"\xff\xfe?,yes\nWhy\0?,no\n")
    assert code == 0, line
    rejected = (tmp_path / "store/runs/bad/preprocess/rejected.jsonl").read_text()
    assert '"undecodable"' in rejected
    assert '"nul_byte"' in rejected


def test_a_model_folder_without_weights(preprocess, command, tmp_path, model):
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (empty / name).write_bytes((model / name).read_bytes())
    code, line = preprocess(GOOD, base=empty)
    if code == 0:
        code, line = command("train", "--run", "bad", "--store", tmp_path / "store")
    assert code == 66
    assert "weights" in line
    assert str(empty) in line


def test_a_bucket_that_does_not_exist(preprocess, s3_environment):
    code, line = preprocess(GOOD, store="s3://no-such-bucket/prefix")
    assert code == 66
    assert "no-such-bucket" in line


def test_wrong_credentials(preprocess, s3_environment, s3_store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    code, line = preprocess(GOOD, store=s3_store.uri)
    assert code == 77
    assert "AWS_SECRET_ACCESS_KEY" in line
    assert "not-the-secret" not in line


def test_no_credentials(preprocess, s3_environment, s3_store, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    code, line = preprocess(GOOD, store=s3_store.uri)
    assert code == 77
    assert "credentials" in line


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_then_room_again(preprocess, small_disk, tmp_path):
    code, line = preprocess(GOOD * 400, store=small_disk, data={"drop_duplicates": False})
    assert code == 69, line
    assert "full" in line
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    code, line = preprocess(GOOD * 400, store=small_disk, data={"drop_duplicates": False})
    assert code == 0, line


def test_a_read_only_store(preprocess, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, line = preprocess(GOOD, store=small_disk)
    assert code == 77, line
    assert str(small_disk) in line


def test_another_recipe_under_the_same_name_changes_nothing(preprocess, tmp_path):
    assert preprocess(GOOD)[0] == 0
    store = open_store(str(tmp_path / "store"))
    before = {key: store.read(key) for key in store.keys("runs/")}
    code, line = preprocess(GOOD, data={"max_length": 99})
    assert code == 78
    assert "(data.max_length: 100 there, 99 here)" in line
    assert {key: store.read(key) for key in store.keys("runs/")} == before


def test_a_start_without_its_inputs_leaves_the_name_free(preprocess, tmp_path):
    code, _ = preprocess(GOOD, source=tmp_path / "typo.csv")
    assert code == 66
    code, line = preprocess(GOOD)
    assert code == 0, line


@pytest.mark.parametrize("generate", [{"input": "nowhere.csv"}, {"adapter": "nowhere"}])
def test_what_generate_will_ask_for_is_looked_for_first(preprocess, generate):
    code, line = preprocess(GOOD, generate=generate)
    assert code == 66
    assert "nowhere" in line


def test_a_run_copied_to_another_name_is_refused(preprocess, command, tmp_path):
    preprocess(GOOD)
    shutil.copytree(tmp_path / "store/runs/bad", tmp_path / "store/runs/copy")
    code, line = command("train", "--run", "copy", "--store", tmp_path / "store")
    assert code == 66
    assert "belongs to preprocess of run 'bad'" in line
