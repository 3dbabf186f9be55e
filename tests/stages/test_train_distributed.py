"""Training in several processes: real ones, over gloo, as pods and as processes of one machine."""

import json
import os
import re
import signal
import sys
from contextlib import nullcontext

import pytest
from safetensors.torch import load
from tests.support import tiny, training
from tests.support.group import child, command, ends, free_port, listens, pods, started
from tests.support.waiting import wait_for

from qatune.config import Lora
from qatune.errors import InterruptedRunError
from qatune.launch import Place
from qatune.model.distributed import LostPeerError, Peers
from qatune.stages import train
from qatune.store import manifests
from qatune.store.folder import FolderStore
from qatune.store.memory import MemoryStore

HEAD = f"runs/{training.RUN}/train/"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """GPT-2 without its own dropout, whose masks depend on how rows are divided."""
    folder = tiny.tiny_gpt2(tmp_path_factory.mktemp("gpt2"))
    settings = json.loads((folder / "config.json").read_text())
    settings |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def prepared(path, ours, **rows):
    store = FolderStore(str(path))
    training.prepared(store, ours, **rows)
    return store


def metrics(store):
    return [json.loads(line) for line in store.read(HEAD + "metrics.jsonl").splitlines()]


def column(store, name):
    return [line[name] for line in metrics(store) if name in line]


def manifest(store):
    return manifests.load(store, training.RUN, "train")[0]


def outputs(store):
    return {ref.key: store.read(ref.key) for ref in manifest(store).outputs}


def adapter(store):
    return load(store.read(HEAD + "adapter/adapter_model.safetensors"))


def complete_checkpoints(store):
    found = re.compile(r"step-(\d+)/\w+/checkpoint.json")
    return sorted(
        int(match[1]) for key in store.keys(HEAD + "checkpoints/") if (match := found.search(key))
    )


def test_two_pods_train_as_one_does_with_the_same_global_batch(gpt2, tmp_path):
    # Of the 17 rows of an epoch its last step has one: the second pod has none then.
    rows = training.easy_rows(17, eos=50256)
    lora = Lora(r=8, target_modules=("c_attn",))
    given = {"lora": lora, "train_sampling_strategy": "group_by_length"}
    ours = training.recipe(gpt2, per_device_train_batch_size=2, **given)
    together = prepared(tmp_path, ours, rows=rows, eos=50256)
    with pods(tmp_path) as both:
        assert [code for code, _ in ends(both)] == [0, 0]
    alone, ours = MemoryStore(), training.recipe(gpt2, per_device_train_batch_size=4, **given)
    train.run(training.prepared(alone, ours, rows=rows, eos=50256))
    assert column(together, "loss") == pytest.approx(column(alone, "loss"), rel=1e-5)
    assert column(together, "grad_norm") == pytest.approx(column(alone, "grad_norm"), rel=1e-4)
    assert column(together, "heldout_loss") == pytest.approx(
        column(alone, "heldout_loss"), rel=1e-5
    )
    for name in ("step", "epoch", "tokens", "learning_rate", "heldout_tokens"):
        assert column(together, name) == column(alone, name)
    for name, weights in adapter(alone).items():
        assert adapter(together)[name].numpy() == pytest.approx(weights.numpy(), abs=1e-4)
    counters = manifest(together).counters
    assert counters["world_size"] == 2
    assert counters["steps"] == 6
    with pods(tmp_path) as again:
        for pod in again:
            out, _ = pod.communicate(timeout=60)
            assert (pod.returncode, "complete already" in out) == (0, True)


def long_recipe(model):
    """Enough steps to be interrupted at one, over several epochs, with dropout."""
    return training.recipe(
        model, max_steps=150, save_steps=10, eval_steps=40, per_device_train_batch_size=1
    )


@pytest.fixture(scope="module")
def uninterrupted(llama, tmp_path_factory):
    """The same run on one machine that has two processes."""
    path = tmp_path_factory.mktemp("uninterrupted")
    store = prepared(path, long_recipe(llama))
    with started(command(path, "--processes", "2")) as both:
        assert [code for code, _ in ends([both])] == [0]
    return store


def test_stopped_and_killed_pods_end_as_processes_left_alone(llama, tmp_path, uninterrupted):
    store = prepared(tmp_path, long_recipe(llama))
    with pods(tmp_path) as both:
        wait_for("a checkpoint", 60, lambda: complete_checkpoints(store))
        both[1].terminate()
        for code, line in ends(both):
            assert code == 75
            assert re.fullmatch(r"qatune: stopped at step \d+ of 150, saved; run .* go on", line)
    stopped = complete_checkpoints(store)[-1]
    assert stopped < 150
    with pods(tmp_path) as both:
        wait_for("another", 60, lambda: complete_checkpoints(store)[-1] > stopped)
        os.kill(child(both[1]), signal.SIGKILL)
        (_, _), (code, line) = ends(both, timeout=20)
        assert (code, "was ended by SIGKILL" in line) == (70, True)
        assert both[0].returncode == 75
    killed = complete_checkpoints(store)[-1]
    assert stopped < killed < 150
    with pods(tmp_path) as both:
        assert [code for code, _ in ends(both)] == [0, 0]
    assert manifest(store).counters["resumed_from_step"] == killed
    assert outputs(store) == outputs(uninterrupted)


def test_torchrun_may_start_the_processes(llama, tmp_path, uninterrupted):
    ours = long_recipe(llama)
    store = prepared(tmp_path, ours)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    with started([*torchrun, "--no-python", "--", *command(tmp_path)]) as both:
        both.communicate(timeout=120)
        assert both.returncode == 0
    assert outputs(store) == outputs(uninterrupted)


def test_what_a_process_knows_is_what_all_end_with(llama, tmp_path):
    prepared(tmp_path, training.recipe(llama), rows=[([5] * 300, 4)])
    with started(command(tmp_path, "--processes", "2")) as both:
        ((code, line),) = ends([both])
    assert code == 65
    assert "1 rows are longer than the model's 256 positions" in line


def test_a_pod_that_waits_for_its_peers_heeds_a_signal(llama, tmp_path):
    prepared(tmp_path, training.recipe(llama))
    port = str(free_port())
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "QATUNE_NODES": "2"}
    with started(command(tmp_path), **given) as first:
        wait_for("the meeting", 60, lambda: listens(int(port)))
        first.terminate()
        assert ends([first], timeout=10) == [(143, "qatune: SIGTERM; run the same command again")]


class LeavingPeers(Peers):
    """All others are gone when this process has done its part."""

    def wait(self):
        raise LostPeerError("gone")


@pytest.mark.parametrize(
    ("rank", "step", "error"),
    [(0, 8, None), (1, 8, InterruptedRunError), (1, 4, LostPeerError)],
    ids=["first", "with-progress", "without"],
)
def test_nobody_but_the_first_has_done_it_while_others_are_missing(
    monkeypatch, llama, rank, step, error
):
    def work(_stage, _peers, saved):
        saved.start, saved.step = 4, step

    stage = training.prepared(MemoryStore(), training.recipe(llama), rows=[])
    monkeypatch.setattr(train, "join", lambda *_: LeavingPeers(rank, 2))
    monkeypatch.setattr(train, "_run", work)
    with pytest.raises(error) if error else nullcontext():
        train.run(stage)


def test_whoever_comes_when_all_is_done_does_nothing(monkeypatch, llama):
    stage = training.prepared(MemoryStore(), training.recipe(llama), rows=[])
    monkeypatch.setattr(train, "_run", lambda *_: pytest.fail("it worked"))
    stage.finish()
    train.run(stage, Place(rank=1, size=2, host="127.0.0.1", port=9))


def test_divided_layers_train_as_whole_ones(gpt2, llama, tmp_path):
    """Five held-out rows, one in the last step: the second pod has less to compute, twice."""
    for family, folder, eos in (("gpt2", gpt2, 50256), ("llama", llama, 1)):
        rows = {"rows": training.easy_rows(17, eos=eos), "heldout": training.easy_rows(5, eos=eos)}
        given = {"lora": Lora(r=8), "per_device_eval_batch_size": 2}
        ours = training.recipe(folder, per_device_train_batch_size=2, fsdp=True, **given)
        divided = prepared(tmp_path / family, ours, eos=eos, **rows)
        with pods(tmp_path / family) as both:
            assert [code for code, _ in ends(both)] == [0, 0]
        alone, ours = MemoryStore(), training.recipe(folder, per_device_train_batch_size=4, **given)
        train.run(training.prepared(alone, ours, eos=eos, **rows))
        for figure, near in (("loss", 1e-5), ("grad_norm", 1e-4), ("heldout_loss", 1e-5)):
            assert column(divided, figure) == pytest.approx(column(alone, figure), rel=near)
        trained = adapter(divided)
        for name, weights in adapter(alone).items():
            assert trained[name].numpy() == pytest.approx(weights.numpy(), abs=1e-4)
        held, whole = (
            manifest(each).counters["memory_footprint_bytes"] for each in (divided, alone)
        )
        assert held < whole


def test_a_divided_training_goes_on_after_kills_as_one_left_alone(llama, tmp_path):
    fields = {"max_steps": 60, "save_steps": 10, "eval_steps": 40, "fsdp": True}
    ours = training.recipe(llama, per_device_train_batch_size=1, **fields)
    left = prepared(tmp_path / "left", ours)
    with pods(tmp_path / "left") as both:
        assert [code for code, _ in ends(both)] == [0, 0]
    store = prepared(tmp_path / "killed", ours)
    with pods(tmp_path / "killed") as both:
        wait_for("a checkpoint", 60, lambda: complete_checkpoints(store))
        both[1].kill()
        assert both[0].wait(60) == 75
    assert 0 < complete_checkpoints(store)[-1] < 60
    with pods(tmp_path / "killed") as both:
        assert [code for code, _ in ends(both)] == [0, 0]
    assert outputs(store) == outputs(left)


def test_quantized_layers_are_not_divided(llama):
    with pytest.raises(ValueError, match=r"train\.fsdp divides weights that are not quantized"):
        training.recipe(llama, {"quantization": "nf4"}, fsdp=True)
