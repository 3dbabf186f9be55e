"""Models and data sets of the hub: the real client against a server of its protocol."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import hub_server
from tests.support.hub_server import Repository
from tests.support.tiny import tiny_llama

_CALLS = """
import json, sys
from qatune import log
from qatune.errors import QatuneError
from qatune.store.sources import data_files, model_folder
log.configure()
def answer(what, *arguments):
    try:
        if what == "model":
            found = model_folder(*arguments)
            return {"path": str(found.path), "revision": found.revision}
        files = data_files(*arguments)
        return [[file.uri, file.size, file.open().read().decode()] for file in files]
    except QatuneError as error:
        return {"code": error.exit_code, "error": str(error)}
print(json.dumps([answer(*call) for call in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_llama(tmp_path_factory.mktemp("model"))
    (folder / "onnx").mkdir()
    for name in ("onnx/config.json", "pytorch_model.bin", "README.md"):
        (folder / name).write_text("not asked for")
    return folder


@pytest.fixture
def hub(model, tmp_path):
    data = tmp_path / "data"
    (data / "more").mkdir(parents=True)
    for name in ("a.csv", "more/b.csv", "c.txt", ".gitattributes", "README.md"):
        (data / name).write_text(name)
    with hub_server.running() as hub:
        hub.repositories["team/tiny"] = Repository(model)
        hub.repositories["team/rows"] = Repository(data, kind="datasets")
        yield hub


@pytest.fixture
def ask(hub, tmp_path):
    """Call in a process of its own: the client reads its environment when it is imported."""

    def asked(*calls, **environment):
        hub.asked.clear()
        defaults = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": ""}
        done = subprocess.run(
            [sys.executable, "-c", _CALLS, json.dumps(calls)],
            env=os.environ | defaults | environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return *json.loads(done.stdout), done.stderr

    return asked


MODEL = ("model", "team/tiny", "main")


def test_a_model_is_downloaded_once_and_its_commit_is_known(hub, ask):
    found, said = ask(MODEL)
    assert found["revision"] == hub.repositories["team/tiny"].commit
    names = {path.name for path in Path(found["path"]).iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not names & {"onnx", "pytorch_model.bin", "README.md"}
    assert "downloading" in said
    assert "team/tiny" in said

    again, said = ask(MODEL)
    assert again == found
    asked = [each for each in hub.asked if "team/tiny" in each]
    assert asked == ["GET /api/models/team/tiny/revision/main"]
    assert "downloading" not in said

    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(found["path"]).config.hidden_size == 64


def test_a_commit_that_is_here_needs_no_hub(hub, ask):
    call = ("model", "team/tiny", hub.repositories["team/tiny"].commit)
    found, _ = ask(call)
    for offline in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        assert ask(call, **offline)[0] == found
    Path(found["path"], "tokenizer.json").unlink()
    assert ask(call)[0] == found
    assert Path(found["path"], "tokenizer.json").is_file()


def test_older_weights_are_taken_where_there_are_no_others(hub, ask, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (old / name).write_text("{}")
    hub.repositories["team/old"] = Repository(old)
    found, _ = ask(("model", "team/old", "main"))
    assert sorted(path.name for path in Path(found["path"]).iterdir()) == [
        "config.json",
        "pytorch_model.bin",
    ]


def test_files_of_a_data_set(ask):
    tables, everything, nothing, _ = ask(
        *(("data", "team/rows", "main", files) for files in ("*.csv", "*", "*.parquet"))
    )
    assert tables == [
        ["team/rows@main/a.csv", 5, "a.csv"],
        ["team/rows@main/more/b.csv", 10, "more/b.csv"],
    ]
    names = [uri.removeprefix("team/rows@main/") for uri, *_ in everything]
    assert names == ["a.csv", "c.txt", "more/b.csv"]
    assert nothing["code"] == 66


def test_what_is_gated_wants_a_token(hub, ask):
    hub.repositories["team/tiny"].gated = True
    refused, _ = ask(MODEL)
    assert refused["code"] == 77
    assert "HF_TOKEN" in refused["error"]
    assert "path" in ask(MODEL, HF_TOKEN="tests-token")[0]


def test_what_is_unknown_is_named(ask):
    unknown = {
        ("team/none", "main"): "no such repository",
        ("team/none", "0" * 40): "no such repository",
        ("no/such/name", "main"): "no such repository",
        ("team/tiny", "none"): "no such revision",
        ("team/tiny", "0" * 40): "no such revision",
    }
    *answers, _ = ask(*(("model", *place) for place in unknown))
    for answer, (place, named) in zip(answers, unknown.items(), strict=True):
        assert answer["code"] == 66, place
        assert named in answer["error"], place


@pytest.mark.parametrize(
    ("revision", "environment"),
    [("main", {"HF_ENDPOINT": "http://127.0.0.1:9"}), ("0" * 40, {"HF_HUB_OFFLINE": "1"})],
)
def test_a_hub_that_cannot_be_reached(ask, revision, environment):
    answer, _ = ask(("model", "team/tiny", revision), **environment)
    assert answer["code"] == 69
    assert "HF_ENDPOINT" in answer["error"]


def test_a_hub_that_stumbles_is_asked_again(hub, ask):
    repository = hub.repositories["team/tiny"]
    repository.broken = repository.cut = 1
    found, _ = ask(MODEL)
    assert repository.cut == 0
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert Path(found["path"], name).read_bytes() == (repository.folder / name).read_bytes()
