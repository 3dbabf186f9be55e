"""Train the adapter, or go on from its last checkpoint exactly where it was."""

import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qatune import config, interruption, log, recipe, scratch
from qatune.errors import (
    BadDataError,
    InterruptedRunError,
    NotAllowedError,
    QatuneError,
    UnavailableError,
)
from qatune.launch import Place
from qatune.model import adapters, card, checks, devices, trainer
from qatune.model.configs import load_config
from qatune.model.distributed import LostPeerError, Peers, join
from qatune.model.journal import Journal, write_tensorboard
from qatune.model.loading import LoadedModel, load_model, prepare_process
from qatune.model.recorder import METRICS, Recorder
from qatune.model.scoring import Row
from qatune.model.uploads import Saved, uploading
from qatune.store import checkpoints, sources
from qatune.store.artifacts import StageRun, is_complete
from qatune.store.heartbeats import earlier_heartbeat, lost_seconds
from qatune.store.objects import fetch


@dataclass(frozen=True)
class _Rows:
    """Columns input_ids and answer_start of all training rows, and the held-out ones."""

    train: pa.Table
    lengths: np.ndarray
    heldout: list[Row]
    limit: int
    """Tokens of a row that are used."""


def run(stage: StageRun, place: Place | None = None) -> None:
    """Train; as one of several processes if `place` says so. The first of them writes."""
    prepare_process()
    saved = Saved()
    with _losses_explained(saved):
        over = partial(is_complete, stage.store, stage.run, stage.stage, stage.recipe)
        peers = join(place or Place(), over)
        if peers:
            _run(stage, peers, saved)
            _end_together(peers)


def _end_together(peers: Peers) -> None:
    """Let none end before the manifest is there: it could not come again, if that fails."""
    try:
        peers.wait()
    except LostPeerError:
        if not peers.first:  # that one has written it
            raise


def _run(stage: StageRun, peers: Peers, saved: Saved) -> None:
    spec = stage.recipe.model
    with scratch.folder() as folder, stage.timed("working"):
        with stage.timed("loading"):
            found = sources.base_model(stage.store, stage.run, spec)
            files = found.files()
            sources.check_tokenizer(stage.parent("preprocess"), found.source, files)
            rows = _checked_rows(stage, load_config(found.path), folder)
            stage.used(files)
            loaded = load_model(found.path, spec, stage.note, for_training=True)
        base = adapters.Base(
            found.source,
            found.revision,
            adapters.base_digest(files),
            spec.quantization,
            loaded.weights,
        )
        model = adapters.create(loaded.model, stage.recipe.train.lora, stage.recipe.train.seed)
        _describe_model(stage, loaded, model)
        journal = Journal(folder / METRICS)
        task = _Task(stage, peers, saved, rows, journal, folder)
        _train(task, model, loaded)
        if not peers.first:
            return
        _count(task)
        _write_outputs(stage, model, loaded, base=base, journal=journal, folder=folder)
    stage.finish()


@contextmanager
def _losses_explained(saved: Saved) -> Iterator[None]:
    """Make of a lost process an interruption, if this start has moved the run on."""
    try:
        yield
    except LostPeerError as error:
        if not saved.moved:
            raise
        raise InterruptedRunError(
            f"{error}; step {saved.step} is saved; run the same command again to go on"
        ) from error


def _checked_rows(stage: StageRun, model_config: Any, folder: Path) -> _Rows:
    """Read the rows and find what would fail later, before any weights are read."""
    train = stage.recipe.train
    checks.check_target_modules(train.lora.target_modules, checks.skeleton(model_config))
    table = _read_rows(stage, "train-", folder)
    heldout = _read_rows(stage, "test-", folder)
    if not len(table):
        raise BadDataError("there is no row to train on: all were rejected or are held out")
    limit = checks.sequence_limit(train.max_length, model_config)
    if limit < train.max_length:
        stage.note(f"train.max_length {train.max_length} is capped to the model's {limit}")
    lengths = _lengths(table)
    for part in (table, heldout):
        checks.check_lengths(_lengths(part), model_config)
        checks.check_vocabulary(_largest_id(part), model_config)
    if train.completion_only_loss:
        checks.check_supervised(lengths, table["answer_start"].to_numpy(), limit)
    cut = int((lengths > limit).sum())
    stage.counters["truncated_rows"] = cut
    if cut:
        stage.note(f"{cut} rows are cut to {limit} tokens: they lose the end of their answer")
    return _Rows(table, lengths, _scoring_rows(heldout), limit)


def _read_rows(stage: StageRun, prefix: str, folder: Path) -> pa.Table:
    """Fetch and verify the parquet parts of one side of the split."""
    refs = stage.parent("preprocess").outputs_like(".parquet", prefix)
    stage.used(refs)
    columns = {"input_ids": pa.list_(pa.int32()), "answer_start": pa.int32()}
    tables = [pa.schema(columns).empty_table()]
    for ref in refs:
        path = fetch(stage.store, ref, folder / "rows" / ref.key.rsplit("/", 1)[-1])
        tables.append(pq.read_table(path, columns=list(columns)).cast(pa.schema(columns)))
        path.unlink()
    return pa.concat_tables(tables)


def _lengths(table: pa.Table) -> np.ndarray:
    lengths: np.ndarray = pc.list_value_length(table["input_ids"]).to_numpy()
    return lengths


def _largest_id(table: pa.Table) -> int:
    return pc.max(pc.list_flatten(table["input_ids"])).as_py() or 0


def _scoring_rows(table: pa.Table) -> list[Row]:
    starts = table["answer_start"].to_pylist()
    return [
        (ids.values.to_numpy(), start)
        for ids, start in zip(table["input_ids"], starts, strict=True)
    ]


def _describe_model(stage: StageRun, loaded: LoadedModel, model: Any) -> None:
    trainable, total = adapters.parameter_counts(model)
    footprint = int(model.get_memory_footprint())
    stage.device = loaded.device_name
    stage.counters |= {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "memory_footprint_bytes": footprint,
    }
    log.get().info(
        "model", trainable=trainable, parameters=total, footprint_bytes=footprint,
        dtype=loaded.dtype, weights=loaded.weights, device=loaded.device_name,
        quantization=stage.recipe.model.quantization,
    )  # fmt: skip


@dataclass(frozen=True)
class _Task:
    """What a training works with besides its model."""

    stage: StageRun
    peers: Peers
    saved: Saved
    rows: _Rows
    journal: Journal
    folder: Path
    """For what need not outlive this start."""
    damaged: list[checkpoints.Checkpoint] = field(default_factory=list)
    """Those that this start found so."""

    @property
    def steps(self) -> int:
        return trainer.total_steps(len(self.rows.train), self.train, self.peers.size)

    @property
    def train(self) -> config.Train:
        return self.stage.recipe.train

    @property
    def checkpoints(self) -> str:
        """Key prefix of the run's checkpoints."""
        return self.stage.key("checkpoints/")

    @property
    def made_for(self) -> str:
        """What a checkpoint depends on."""
        return f"{recipe.digest(self.stage.recipe)} {self.stage.upstream['preprocess'][1]}"


def _train(task: _Task, model: Any, loaded: LoadedModel) -> None:
    """Train to the last step; raise InterruptedRunError if a signal came before it."""
    steps, saved = task.steps, task.saved
    resumed = _resumed(task)
    start = saved.start
    with (
        interruption.watched() as stop,
        _progress(task) as progress,
        uploading(partial(_send, task), saved) as uploads,
        scratch.watched(task.folder),  # within: what has arrived makes room
    ):
        recorder = Recorder(
            task.journal,
            task.rows.heldout,
            train=task.train,
            pad_id=loaded.tokenizer.pad_token_id,
            uploads=uploads,
            interruption=stop,
            progress=progress,
            peers=task.peers,
            saved=saved,
            spent=partial(task.stage.spent, "saving"),
        )
        taught = _trainer(task, model, loaded, recorder)
        recorder.trainer = taught
        progress.skip(start)
        began = time.monotonic()
        if resumed is not None and start >= steps:
            taught.load_adapter(resumed)
        else:
            taught.train(resume_from_checkpoint=resumed and str(resumed))
        uploads.wait()
        saved.step = task.peers.told(saved.step)
        done = max(taught.state.global_step, start)
        if done < steps or not recorder.measure(model, done):
            _stop(done, steps, moved=saved.moved)
        _count_speed(task, done - start, time.monotonic() - began)


class _Unseen:
    def advance(self, count: int = 1, **shown: float | str) -> None:
        """Show nothing: the first process shows how far all are."""

    def skip(self, count: int) -> None:
        """Show nothing."""


def _progress(task: _Task) -> AbstractContextManager[log.Progress]:
    if task.peers.first:
        return task.stage.progress("training", task.steps, "steps")
    return nullcontext(_Unseen())


def _resumed(task: _Task) -> Path | None:
    """Fetch the newest checkpoint and its journal, the same in all processes; None without one."""
    stage, peers, made_for = task.stage, task.peers, task.made_for
    where, folder = (stage.store, task.checkpoints), task.folder / "resumed"
    beat = earlier_heartbeat(stage.store, stage.key("progress.json"))
    newest = None
    if peers.first:
        newest = checkpoints.newest(
            *where, folder, made_for, processes=peers.size, damaged=task.damaged.append
        )
    found, path = newest or (None, None)
    found = peers.told(found)
    if found and not peers.first:
        path = checkpoints.get(*where, found, folder, made_for, processes=peers.size)
    task.saved.start = task.saved.step = found.step if found else 0
    stage.counters["resumed_from_step"] = task.saved.start
    stage.seconds["lost"] = lost_seconds(beat, task.saved.start)
    if path is not None:
        shutil.copyfile(path / METRICS, task.journal.path)
        log.get().info("going on from a checkpoint", step=task.saved.start)
    return path


def _send(task: _Task, step: int, folder: Path) -> None:
    """Put a checkpoint into the store, and take away those that it makes superfluous.

    It is safe whether or not they go: that is tried again with the next one.
    """
    store, prefix = task.stage.store, task.checkpoints
    saved = checkpoints.save(store, prefix, step, folder, task.made_for, processes=task.peers.size)
    try:
        checkpoints.prune(store, prefix, saved, task.train.save_total_limit, task.damaged)
    except (UnavailableError, NotAllowedError) as error:
        log.get().warning("old checkpoints not deleted", reason=str(error))


def _trainer(
    task: _Task, model: Any, loaded: LoadedModel, recorder: Recorder
) -> trainer.AdapterTrainer:
    rows = task.rows
    return trainer.AdapterTrainer(
        model,
        datasets.Dataset(rows.train),
        rows.lengths.tolist(),
        train=task.train,
        args=trainer.settings(
            task.train,
            optim=trainer.optimizer_name(task.train.optim, loaded.device, task.stage.note),
            loaded=loaded,
            steps=task.steps,
            folder=task.folder / "checkpoints",
            saves=task.peers.first,
        ),
        tokenizer=loaded.tokenizer,
        limit=rows.limit,
        callbacks=[recorder],
        peers=task.peers,
    )


def _stop(done: int, steps: int, *, moved: bool) -> None:
    if not moved:
        raise QatuneError(f"stopped at step {done} of {steps} without progress since the start")
    raise InterruptedRunError(
        f"stopped at step {done} of {steps}, saved; run the same command again to go on"
    )


def _count_speed(task: _Task, steps: int, seconds: float) -> None:
    """Rows per second of this start; a run that went on has counted its earlier ones."""
    train = task.train
    in_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    rows = steps * min(in_step * task.peers.size, len(task.rows.train))
    task.stage.counters["samples_per_second"] = round(rows / max(seconds, 1e-9), 3)


def _count(task: _Task) -> None:
    stage, rows, lines = task.stage, task.rows, task.journal.lines()
    steps = [line for line in lines if "loss" in line]
    heldout = [line["heldout_loss"] for line in lines if "heldout_loss" in line]
    stage.counters |= {
        "world_size": task.peers.size,
        "steps": len(steps),
        "epochs": round(steps[-1]["epoch"], 6),
        "rows": len(rows.train),
        "tokens": int(np.minimum(rows.lengths, rows.limit).sum()),
        "supervised_tokens": sum(line["tokens"] for line in steps),
        "train_loss": sum(line["loss"] for line in steps) / len(steps),
        "heldout_rows": len(rows.heldout),
        "heldout_loss_before": heldout[0] if heldout else None,
        "heldout_loss_after": heldout[-1] if heldout else None,
        "peak_memory_bytes": devices.peak_memory_bytes(),
        # Until now nothing else was saved: what checkpoints kept the steps waiting.
        "checkpoint_wait_seconds": round(stage.seconds["saving"], 3),
    }


def _write_outputs(
    stage: StageRun,
    model: Any,
    loaded: LoadedModel,
    *,
    base: adapters.Base,
    journal: Journal,
    folder: Path,
) -> None:
    stage.create(METRICS, journal.path)
    events = write_tensorboard(journal.lines(), folder / "tensorboard")
    stage.create(f"tensorboard/{events.name}", events)
    text = card.model_card(stage.recipe, base, stage.counters)
    adapter = folder / "adapter"
    for path in adapters.save(model, loaded.tokenizer, base, text, adapter):
        stage.create(f"adapter/{path.relative_to(adapter).as_posix()}", path)
