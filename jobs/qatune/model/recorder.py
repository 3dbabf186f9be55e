"""What happens between two steps: figures, held-out loss, checkpoints, an orderly stop."""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from qatune import config, log
from qatune.interruption import Interruption
from qatune.log import Progress
from qatune.model import scoring
from qatune.model.journal import Journal

METRICS = "metrics.jsonl"


class Uploads:
    """Sends one checkpoint at a time to the store while training goes on.

    `durable` is the last step that is safe there; the first failure comes out of the next call.
    """

    def __init__(self, send: Callable[[int, Path], None]) -> None:
        self._send = send
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None
        self.durable = 0

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
        self.durable = step


class Recorder(TrainerCallback):  # type: ignore[misc] # untyped library
    """Writes the journal, measures the held-out loss, keeps checkpoints, watches for a stop."""

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
    ) -> None:
        self._journal, self._heldout = journal, heldout
        self._train, self._pad_id = train, pad_id
        self._uploads, self._interruption, self._progress = uploads, interruption, progress
        self._rate = 0.0
        self.trainer: Any = None

    def measure(self, model: Any, step: int) -> None:
        """Write the loss per token over all held-out answers."""
        scored = scoring.score(
            model,
            self._heldout,
            batch_size=self._train.per_device_eval_batch_size,
            pad_id=self._pad_id,
        )
        loss = scoring.mean(scored)
        if loss is not None:
            self._journal.heldout(step, loss, sum(row.tokens for row in scored))
            log.get().info("held-out loss", step=step, loss=loss)

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
        if self._interruption.requested:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._journal.flush()
        shutil.copyfile(self._journal.path, folder / METRICS)
        self._uploads.begin(state.global_step, folder)
