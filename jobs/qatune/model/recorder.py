"""What happens between two steps: figures, held-out loss, checkpoints, an orderly stop."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from qatune import config, log
from qatune.data.learning import not_a_number
from qatune.errors import BadRecipeError, QatuneError
from qatune.interruption import Interruption
from qatune.log import Progress
from qatune.model import adapters, scoring
from qatune.model.distributed import Peers
from qatune.model.journal import Journal
from qatune.model.uploads import Saved, Uploads

METRICS = "metrics.jsonl"


class _StopError(Exception):
    """A stop was asked for in the middle of a measurement."""


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
        spent: Callable[[float], None],
    ) -> None:
        """`spent` hears of the seconds that each save kept the training waiting."""
        self._journal, self._heldout = journal, heldout
        self._train, self._pad_id = train, pad_id
        self._uploads, self._interruption, self._progress = uploads, interruption, progress
        self._peers, self._saved, self._spent = peers, saved, spent
        self._rate = self._save_began = 0.0
        self.measuring = 0.0
        """Seconds that went into the held-out loss."""
        self.trainer: Any = None

    def measure(self, model: Any, step: int) -> bool:
        """Write the loss per token over all held-out answers, if this step is to have it.

        False if it has not, as a stop was asked for: the start that goes on from here measures.
        """
        due = step == self.trainer.args.max_steps or step % self._train.eval_steps == 0
        if not due or self._journal.has_heldout(step):
            return True
        began = time.monotonic()
        scored = self._score(model)
        self.measuring += time.monotonic() - began
        if scored is None:
            return False
        loss = scoring.mean(scored)
        if loss is not None:
            self._journal.heldout(step, loss, sum(row.tokens for row in scored))
            log.get().info("held-out loss", step=step, loss=loss)
        return True

    def _score(self, model: Any) -> list[scoring.Scored] | None:
        """Score this process's share of the rows, and learn of the others'.

        Returns None if any process was asked to stop meanwhile.
        """
        own = slice(self._peers.rank, None, self._peers.size)
        most = math.ceil(len(self._heldout) / self._peers.size)
        passes = math.ceil(most / self._train.per_device_eval_batch_size)
        figures = torch.zeros(len(self._heldout) + 1, 2, dtype=torch.float64)
        try:
            scored = scoring.score(
                model,
                self._heldout[own],
                batch_size=self._train.per_device_eval_batch_size,
                pad_id=self._pad_id,
                # With layers divided, whoever left would leave the others without their parts.
                done=self._ignore if self._train.fsdp else self._go_on,
                passes=passes if self._train.fsdp else 0,
            )
        except _StopError:
            figures[-1] = 1
        else:
            pairs = [(row.nll, row.tokens) for row in scored]
            figures[:-1][own] = torch.tensor(pairs).double().reshape(-1, 2)
        self._peers.add(figures)
        *rows, (stops, _) = figures.tolist()
        return None if stops else [scoring.Scored(nll, int(tokens)) for nll, tokens in rows]

    def _ignore(self, _rows: int) -> None:
        """Let a stop wait until all have measured."""

    def _go_on(self, _rows: int) -> None:
        if self._interruption.requested:
            raise _StopError

    def on_train_begin(
        self, _args: Any, state: Any, _control: Any, *, model: Any, **_: Any
    ) -> None:
        step = state.global_step
        if not self.measure(model, step):
            raise QatuneError(f"stopped at step {step} of {state.max_steps} without progress")

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
        if loss is not None or step % self._train.save_steps == 0:
            self._refuse_lost(model, step)
        self._progress.advance(1, **({} if loss is None else {"loss": loss}))
        self.measure(model, step)
        if self._asked_to_stop():
            self._refuse_lost(model, step)
            control.should_training_stop = True
            control.should_save = self._peers.first
        self._save_began = time.monotonic()

    def _refuse_lost(self, model: Any, step: int) -> None:
        """Stop before an adapter that is no numbers any more is saved in the place of a good one.

        Raises BadRecipeError, in all processes alike.
        """
        self._journal.flush()
        if not adapters.is_finite(model):
            raise BadRecipeError(not_a_number("adapter", step))

    def _asked_to_stop(self) -> bool:
        """Whether any process was; tell the others how far the store is."""
        step = self._saved.step if self._peers.first else 0
        asked, step = self._peers.totals(int(self._interruption.requested), step)
        if not self._peers.first:
            self._saved.step = step
        return asked > 0

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._journal.flush()
        shutil.copyfile(self._journal.path, written / METRICS)
        folder = written.with_name(f"leaving-{state.global_step}")
        self._uploads.begin(state.global_step, written.rename(folder))
        self._spent(time.monotonic() - self._save_began)
