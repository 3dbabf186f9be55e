import importlib
import json
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from qatune import cli, importing
from qatune.config import Recipe
from qatune.errors import BadRecipeError, InterruptedRunError
from qatune.importing import absent, check_engine
from qatune.store import ranges, sources
from qatune.store.artifacts import StageRun
from qatune.store.folder import FolderStore
from qatune.store.memory import MemoryStore
from qatune.store.objects import describe_source
from qatune.store.sources import ModelFolder


def test_what_is_not_imported_yet_is_absent_inside_and_there_again_after():
    name = "this"
    sys.modules.pop(name, None)
    with absent(name), pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
    assert name not in sys.modules
    assert importlib.util.find_spec(name)


def test_what_is_imported_stays():
    with absent("json"):
        assert importlib.import_module("json").dumps(1) == "1"
    assert "json" in sys.modules


def test_a_stage_whose_libraries_are_missing_leaves_nothing_hidden():
    script = """
import gc, sys
from qatune.importing import import_stage
try:
    import_stage("nothing")
except ModuleNotFoundError as error:
    print(error, {"bitsandbytes", "boto3"} & sys.modules.keys(), gc.isenabled())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "No module named 'qatune.stages.nothing' set() True\n"


def test_an_engine_that_is_not_installed_is_found_before_anything_is_written(tmp_path):
    arguments = ["demo", "--store", str(tmp_path), "--set", "generate.engine=vllm"]
    wanted = r"generate\.engine: vllm is not installed; install qatune\[vllm\] or set engine to con"
    with pytest.raises(BadRecipeError, match=wanted):
        cli.cli(["run", *arguments], standalone_mode=False)
    assert not list(FolderStore(str(tmp_path)).keys(""))
    check_engine("continuous")


def test_what_an_earlier_stage_left_is_not_kept_by_an_import():
    script = """
import gc, weakref
from qatune.importing import import_stage
class Model: pass
left = Model()
left.itself, gone = left, weakref.ref(left)
del left
import_stage("evaluate")
gc.collect()
print(gone())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "None\n"


@pytest.fixture(name="mirrored")
def _mirrored(tmp_path, monkeypatch):
    """A stage whose base is on the hub, and mirrored in what stands for a bucket."""
    monkeypatch.setenv("QATUNE_CACHE", str(tmp_path))
    store, commit = MemoryStore(), "0" * 40
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    folder = f"models/org/model@{commit}/"
    for name, content in files.items():
        store.create(folder + name, content)
    refs = [describe_source(name, content) for name, content in files.items()]
    listed = {"repo": "org/model", "commit": commit, "files": [asdict(ref) for ref in refs]}
    store.create(folder + "mirror.json", json.dumps(listed).encode())
    ours = Recipe.model_validate(
        {"model": {"source": "org/model", "revision": commit}, "data": {"source": "-"}}
    )
    return StageRun(store, "tiny", "train", ours, {})


def test_the_base_comes_while_the_libraries_are_imported(mirrored, monkeypatch):
    """The import waits for the fetch to begin: one after the other would wait for ever."""
    read, begun, got = mirrored.store.read, threading.Event(), []

    def reading(key, *given, **named):
        if key.endswith("model.safetensors"):
            begun.set()
            got.append(key)
        return read(key, *given, **named)

    def import_slowly(_):
        assert begun.wait(60)
        return SimpleNamespace(run=lambda stage: got.append(stage.base_model()))

    monkeypatch.setattr(mirrored.store, "read", reading)
    monkeypatch.setattr(importing, "import_stage", import_slowly)
    monkeypatch.setattr(StageRun, "open", lambda *_: mirrored)
    assert cli._run_stage("train", mirrored.store, "tiny", mirrored.recipe)
    fetched, base = got
    assert fetched.endswith("model.safetensors")
    assert (base.path / "model.safetensors").read_bytes() == b"weights"
    assert len(base.mirrored) == 3


def test_what_nobody_needs_any_more_is_not_fetched_to_its_end(mirrored, monkeypatch):
    read, begun, over = mirrored.store.read, threading.Event(), threading.Event()

    def reading(key, *given, **named):
        if key.endswith("config.json"):
            begun.set()
            assert over.wait(60)
        return read(key, *given, **named)

    monkeypatch.setattr(mirrored.store, "read", reading)
    monkeypatch.setattr(ranges, "_STREAMS", 1)

    def import_what_is_missing():
        assert begun.wait(60)
        threading.Timer(0.2, over.set).start()  # while it is waited for, and stopped
        raise ImportError

    with pytest.raises(ImportError), mirrored.base_on_its_way():
        import_what_is_missing()
    with pytest.raises(InterruptedRunError, match="no longer needed"):
        mirrored.base_model()
    models = ranges.cache_folder() / "models"
    assert not list(models.iterdir())


def test_a_model_without_a_mirror_is_brought_by_the_stage(mirrored, monkeypatch):
    for key in list(mirrored.store.keys("models/")):
        mirrored.store.delete(key)
    wanted = ModelFolder(Path("here"), None, "org/model")
    threads = []

    def model_folder(*_):
        threads.append(threading.current_thread())
        return wanted

    monkeypatch.setattr(sources, "model_folder", model_folder)
    with mirrored.base_on_its_way():
        assert mirrored.base_model() is wanted
    assert threads == [threading.current_thread()]
