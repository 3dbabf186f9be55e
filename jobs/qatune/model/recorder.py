"""What happens between two steps: figures, held-out loss, checkpoints, an orderly stop."""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from qatune import config, log
from qatune.interruption import Interruption
from qatune.log import Progress
from qatune.model import scoring
from qatune.model.distributed import Peers
from qatune.model.journal import Journal

METRICS = "metrics.jsonl"


@dataclass
class Saved:
    """How far the store is: what a restart will go on from."""

    start: int = 0
    """The step that this start of the stage went on from."""
    step: int = 0

    @property
    def moved(self) -> bool:
        return self.step > self.start


class Uploads:
    """Sends one checkpoint at a time to the store while training goes on.

    `saved` hears of each that is safe there; the first failure comes out of the next call.
    """

    def __init__(self, send: Callable[[int, Path], None], saved: Saved) -> None:
        self._send, self._saved = send, saved
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def begin(self, step: int, folder: Path) -> None:
        self.wait()
        self._running = self._pool.submit(self._upload, step, folder)

    def wait(self) -> None:
        """Return when nothing is under way."""
        running, self._running = self._running, None
        if running:
            running.result()

    def close(self) -> None:
        """End the thread, when what it is at is through."""
        self._pool.shutdown(wait=True)

    def _upload(self, step: int, folder: Path) -> None:
        self._send(step, folder)
        self._saved.step = step


class Recorder(TrainerCallback):  # type: ignore[misc] # untyped library
    """Writes the journal, measures the held-out loss, keeps checkpoints, watches for a stop.

    Of several processes each writes the same journal; the first one keeps the checkpoints.
    """

    def __init__(
        self,
        journal: Journal,
        heldout: Sequence[scoring.Row],
        *,
        train: config.Train,
        pad_id: int,
        uploads: Uploads,
        interruption: Interruption,
        progress: Progress,
        peers: Peers,
        saved: Saved,
    ) -> None:
        self._journal, self._heldout = journal, heldout
        self._train, self._pad_id = train, pad_id
        self._uploads, self._interruption, self._progress = uploads, interruption, progress
        self._peers, self._saved = peers, saved
        self._rate = 0.0
        self.trainer: Any = None

    def measure(self, model: Any, step: int) -> None:
        """Write the loss per token over all held-out answers."""
        scored = self._score(model)
        loss = scoring.mean(scored)
        if loss is not None:
            self._journal.heldout(step, loss, sum(row.tokens for row in scored))
            log.get().info("held-out loss", step=step, loss=loss)

    def _score(self, model: Any) -> list[scoring.Scored]:
        """Score this process's share of the rows, and learn of the others'."""
        own = slice(self._peers.rank, None, self._peers.size)
        scored = scoring.score(
            model,
            self._heldout[own],
            batch_size=self._train.per_device_eval_batch_size,
            pad_id=self._pad_id,
        )
        figures = torch.zeros(len(self._heldout), 2, dtype=torch.float64)
        if scored:
            figures[own] = torch.tensor([(row.nll, row.tokens) for row in scored]).double()
        self._peers.add(figures)
        return [scoring.Scored(nll, int(tokens)) for nll, tokens in figures.tolist()]

    def on_pre_optimizer_step(self, *_: Any, optimizer: Any, **__: Any) -> None:
        self._rate = float(optimizer.param_groups[0]["lr"])

    def on_step_end(self, _args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        step, trainer = state.global_step, self.trainer
        self._journal.step(
            step,
            state.epoch,
            self._rate,
            loss=trainer.take_step_loss(),
            tokens=trainer.step_tokens,
            norm=trainer.step_norm,
        )
        last = step >= state.max_steps
        loss = self._journal.flush() if last or step % self._train.logging_steps == 0 else None
        self._progress.advance(1, **({} if loss is None else {"loss": loss}))
        if last or step % self._train.eval_steps == 0:
            self.measure(model, step)
        if self._asked_to_stop():
            control.should_training_stop = True
            control.should_save = self._peers.first

    def _asked_to_stop(self) -> bool:
        """Whether any process was; tell the others how far the store is."""
        step = self._saved.step if self._peers.first else 0
        asked, step = self._peers.totals(int(self._interruption.requested), step)
        if not self._peers.first:
            self._saved.step = step
        return asked > 0

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._journal.flush()
        shutil.copyfile(self._journal.path, folder / METRICS)
        self._uploads.begin(state.global_step, folder)
