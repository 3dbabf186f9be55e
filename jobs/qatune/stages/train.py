"""Train the adapter, or go on from its last checkpoint exactly where it was."""

import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from qatune import config, interruption, log, recipe, scratch
from qatune.errors import (
    InterruptedRunError,
    NotAllowedError,
    QatuneError,
    UnavailableError,
)
from qatune.importing import check_trackers
from qatune.launch import Place
from qatune.model import (
    adapters,
    card,
    checks,
    devices,
    flops,
    sharding,
    trainer,
    training_rows,
)
from qatune.model.attention import attend_by_rows
from qatune.model.configs import load_config
from qatune.model.distributed import LostPeerError, Peers, join
from qatune.model.flops import Work
from qatune.model.journal import Journal, write_tensorboard
from qatune.model.loading import LoadedModel, load_model, prepare_process
from qatune.model.recorder import METRICS, Recorder
from qatune.model.supervision import Supervision
from qatune.model.training_rows import TrainingRows
from qatune.model.uploads import Saved, uploading
from qatune.store import checkpoints, sources
from qatune.store.artifacts import StageRun, is_complete
from qatune.store.heartbeats import earlier_heartbeat, lost_seconds


def run(stage: StageRun, place: Place | None = None) -> None:
    """Train; as one of several processes if `place` says so. The first of them writes."""
    check_trackers(stage.recipe.train.report_to)
    prepare_process()
    saved = Saved()
    with _losses_explained(saved):
        over = partial(is_complete, stage.store, stage.run, stage.stage, stage.recipe)
        with stage.timed("waiting"):
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
            found = stage.base_model()
            files = found.files()
            sources.check_tokenizer(stage.parent("preprocess"), found.source, files)
            rows = training_rows.read(stage, load_config(found.path), folder)
            stage.used(files)
            divided = stage.recipe.train.fsdp and peers.size > 1
            place = "cpu" if divided else None
            loaded = load_model(found.path, spec, stage.note, for_training=True, place=place)
        base = adapters.Base(
            found.source,
            found.revision,
            adapters.base_digest(files),
            spec.quantization,
            loaded.weights,
        )
        model = adapters.create(loaded.model, stage.recipe.train.lora, stage.recipe.train.seed)
        if divided:
            sharding.divide_layers(model, loaded.device, peers.size)
        _describe_model(stage, loaded, model)
        journal = Journal(folder / METRICS)
        task = _Task(stage, peers, saved, rows, journal, folder)
        supervision = Supervision(stage, journal, task.steps, first=peers.first)
        _train(task, model, loaded, supervision)
        if not peers.first:
            return
        _count(task)
        _write_outputs(stage, model, loaded, base=base, journal=journal, folder=folder)
        supervision.conclude(model)
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


def _describe_model(stage: StageRun, loaded: LoadedModel, model: Any) -> None:
    trainable, total = adapters.parameter_counts(model)
    footprint = sharding.held_bytes(model)
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
    rows: TrainingRows
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


def _train(task: _Task, model: Any, loaded: LoadedModel, supervision: Supervision) -> None:
    """Train to the last step; raise InterruptedRunError if a signal came before it."""
    steps, saved = task.steps, task.saved
    resumed = _resumed(task)
    start = saved.start
    with (
        supervision.following(),
        interruption.watched() as stop,
        _progress(task) as progress,
        uploading(partial(_send, task), saved) as uploads,
        scratch.watched(task.folder),  # within: what has arrived makes room
        task.peers.computing(),
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
        supervision.check(task.rows, taught.data_collator, loaded.tokenizer)
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
        seconds = time.monotonic() - began - recorder.measuring
        _count_speed(task, taught, done - start, seconds)


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
    packed = task.train.packing and attend_by_rows(model)
    if task.train.packing and not packed:
        task.stage.note(
            "train.packing: this architecture mixes the rows of a pack: they are padded"
        )
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
        packed=packed,
        callbacks=[recorder],
        peers=task.peers,
    )


def _stop(done: int, steps: int, *, moved: bool) -> None:
    if not moved:
        raise QatuneError(f"stopped at step {done} of {steps} without progress since the start")
    raise InterruptedRunError(
        f"stopped at step {done} of {steps}, saved; run the same command again to go on"
    )


def _count_speed(task: _Task, taught: trainer.AdapterTrainer, steps: int, seconds: float) -> None:
    """Count this start's speed, without what the held-out loss took, its padding, its memory.

    The share of what the devices could compute is known where their data sheet is.
    """
    stage, train, size = task.stage, task.train, task.peers.size
    in_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    rows = steps * min(in_step * size, len(task.rows.train))
    seconds = max(seconds, 1e-9)
    short, positions, *counts = task.peers.totals(
        int(taught.recomputes), taught.positions, *astuple(taught.work)
    )
    work, peak = Work(*counts), flops.device_peak(stage.device)
    stage.counters |= {
        "samples_per_second": round(rows / seconds, 3),
        "tokens_per_second": round(work.tokens / seconds, 3),
    }
    if positions:  # else nothing was left to do
        stage.counters["padding_share"] = round(1 - work.tokens / positions, 6)
    if positions and peak:
        done = flops.training_flops(checks.skeleton(taught.model.config), work)
        stage.counters["peak_share"] = round(done / seconds / (peak * size), 6)
    if short:
        stage.note(
            "train.gradient_checkpointing: not all steps fit into the memory of the GPU: "
            "activations were computed again"
        )


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
