"""The record of training: one line an optimizer step, and one a held-out measurement."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qatune.data.learning import not_a_number
from qatune.errors import BadRecipeError
from qatune.importing import absent

Reader = Callable[[list[dict[str, Any]]], None]


class Journal:
    """metrics.jsonl. Holds no clock, so that two runs of one recipe write equal bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.readers: list[Reader] = []
        """They hear of each line as it is written."""
        self._waiting: list[tuple[dict[str, Any], Tensor]] = []

    def step(
        self, step: int, epoch: float, rate: float, *, loss: Tensor, tokens: Tensor, norm: Tensor
    ) -> None:
        """Keep a step's figures on their device: reading them there would stall the GPU."""
        figures = torch.stack([loss.double(), tokens.double(), norm.double()])
        self._waiting.append(({"step": step, "epoch": epoch, "learning_rate": rate}, figures))

    def heldout(self, step: int, loss: float, tokens: int) -> None:
        """Write a measurement. Raises BadRecipeError for one that is not a number."""
        self.flush()
        if not math.isfinite(loss):
            raise BadRecipeError(not_a_number("held-out loss", step, loss))
        self._append([{"step": step, "heldout_loss": loss, "heldout_tokens": tokens}])

    def has_heldout(self, step: int) -> bool:
        return any(line["step"] == step and "heldout_loss" in line for line in self.lines())

    def flush(self) -> float | None:
        """Write the waiting steps; return the last one's loss.

        Raises BadRecipeError for a loss that is not a number.
        """
        if not self._waiting:
            return None
        figures = torch.stack([values for _, values in self._waiting]).tolist()
        lines = []
        for (known, _), (loss, tokens, norm) in zip(self._waiting, figures, strict=True):
            if not math.isfinite(loss):
                raise BadRecipeError(not_a_number("loss", known["step"], loss))
            line = {"step": known["step"], "epoch": known["epoch"], "loss": loss}
            line |= {"tokens": int(tokens), "learning_rate": known["learning_rate"]}
            # In float16 a gradient may overflow: that step is skipped and the scale lowered.
            lines.append(line | {"grad_norm": norm if math.isfinite(norm) else None})
        self._waiting.clear()
        self._append(lines)
        return float(lines[-1]["loss"])

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines written so far."""
        self.flush()
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def _append(self, lines: list[dict[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        for reader in self.readers:
            reader(lines)


def write_tensorboard(lines: list[dict[str, Any]], folder: Path) -> Path:
    """Write the journal as TensorBoard events; a step counts as a second.

    Made from the journal at the end, a run that was interrupted shows each step once, and
    equal journals give equal bytes.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    with absent("boto3"):  # for paths in S3, which this is not
        from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "events.out.tfevents.0.qatune"
    with path.open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
        for line in lines:
            values = [
                Summary.Value(tag=tag, simple_value=line[name])
                for name, tag in _TAGS.items()
                if line.get(name) is not None
            ]
            event = Event(wall_time=line["step"], step=line["step"], summary=Summary(value=values))
            records.write(event.SerializeToString())
    return path


_TAGS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "heldout_loss": "heldout/loss",
}
