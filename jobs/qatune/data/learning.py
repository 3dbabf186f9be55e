"""What the figures of a training say about it, in plain words. Equal journals warn alike.

docs/learning.md has each sentence, and how often each is said of a training that is well.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

_WINDOW = 50
"""Steps whose gradients are compared with."""
_FEWEST_BEFORE = 20
_EXPLODED = 10.0
"""Times the median of the steps before."""
_SKIPPED_SHARE = 0.05
_FEWEST_FLAT = 50
"""Steps below which no curve is called flat."""
_LONG = 200
"""Steps after which a flat curve is told of on the way, if many are to come."""
_NO_FALL = 0.05
"""Share of the loss: whatever is below counts as no fall."""
_WITHIN_NOISE = 2.0
"""Standard errors: a fall that is larger is one."""
_IN_FAVOUR = 3.0
"""Standard errors that a fall may be larger than it looks."""
_HELDOUT_CHANGE = 0.01
"""Share of the held-out loss that counts as a change of it."""
_RISES = 2
"""Measurements above the best one, after which the held-out loss is said to rise."""

UNCHANGED = (
    "the adapter changes nothing: all of its second factors are still zero. Raise "
    "train.learning_rate or the number of steps"
)

Line = Mapping[str, Any]
"""A line of metrics.jsonl."""


def not_a_number(what: str, step: int, value: float | None = None) -> str:
    """Say why training has stopped."""
    shown = f"the {what} is not a number" + ("" if value is None else f" ({value})")
    return (
        f"step {step}: {shown}: this adapter cannot be trusted, and training stops; what was saved "
        "before stays. Lower train.learning_rate, or set model.dtype to float32, under another "
        "run name"
    )


class Watch:
    """Looks at the lines of a journal as they come, and says each thing once.

    `steps` is the whole training's number, `max_grad_norm` what gradients are cut to (0: nothing).
    """

    def __init__(self, steps: int, max_grad_norm: float) -> None:
        self._steps, self._max_norm = steps, max_grad_norm
        self._losses: list[float] = []
        self._heldout: list[tuple[int, float]] = []
        self._norms: deque[float] = deque(maxlen=_WINDOW)
        self._exploded: list[_Explosion] = []
        self._skipped = 0
        self._said: set[str] = set()

    def see(self, lines: Iterable[Line]) -> list[str]:
        """Take the next lines; return what is to be said of them now."""
        return [sentence for line in lines for sentence in self._seen(line)]

    def verdict(self) -> list[str]:
        """Return all that is to be said at the end of the training."""
        sentences = (self._explosions(), self._skips(), self._flat(), self._overfitted())
        return [sentence for sentence in sentences if sentence]

    def _seen(self, line: Line) -> list[str]:
        if "heldout_loss" in line:
            self._heldout.append((line["step"], line["heldout_loss"]))
            return self._once("overfitted", self._overfitted())
        self._losses.append(line["loss"])
        said = self._once("exploded", self._explosion(line["step"], line["grad_norm"]))
        said += self._once("skipped", self._skips(so_far=True))
        due = max(_LONG, self._steps // 4)
        if line["step"] == due and due < self._steps:
            said += self._once("flat", self._flat(so_far=True))
        return said

    def _once(self, name: str, sentence: str | None) -> list[str]:
        if sentence is None or name in self._said:
            return []
        self._said.add(name)
        return [sentence]

    def _explosion(self, step: int, norm: float | None) -> str | None:
        """Hold a gradient against those before it."""
        if norm is None:
            self._skipped += 1
            return None
        usual = median(self._norms) if len(self._norms) >= _FEWEST_BEFORE else math.inf
        self._norms.append(norm)
        if norm <= max(_EXPLODED * usual, self._max_norm):
            return None
        self._exploded.append(_Explosion(step, norm, usual))
        return (
            f"{self._exploded[0]}: {self._cut()}. If more follow or the loss jumps, "
            "lower train.learning_rate"
        )

    def _cut(self) -> str:
        if not self._max_norm:
            return "it was not cut, as train.max_grad_norm is 0"
        return f"the step was cut to train.max_grad_norm {self._max_norm:g}"

    def _explosions(self) -> str | None:
        if not self._exploded:
            return None
        count = len(self._exploded)
        more = "" if count == 1 else f", the first of {count} such steps of {len(self._losses)}"
        return (
            f"{self._exploded[0]}{more}: {self._cut()}. If the loss jumps there, "
            "lower train.learning_rate"
        )

    def _skips(self, *, so_far: bool = False) -> str | None:
        """Tell of gradients that were no numbers: only float16 comes this far with them."""
        if self._skipped <= max(_SKIPPED_SHARE * len(self._losses), _FEWEST_BEFORE):
            return None
        nothing = "nothing so far" if so_far else "nothing"
        return (
            f"{self._skipped} of {len(self._losses)} steps taught {nothing}: their gradients "
            "overflowed in float16. Set model.dtype to bfloat16 or float32"
        )

    def _flat(self, *, so_far: bool = False) -> str | None:
        """Compare the first fifth of the steps with the last.

        Flat is a loss whose fall is within its noise and, were the noise all in its favour, still
        small; and that of the held-out rows, which has no such noise, did not fall either. So a
        short or a noisy training is not judged.
        """
        count, part = len(self._losses), len(self._losses) // 5
        if count < _FEWEST_FLAT or self._heldout_fell():
            return None
        first, last = fmean(self._losses[:part]), fmean(self._losses[-part:])
        error = _noise(self._losses) * math.sqrt(2 / part)
        fall = first - last
        if fall > _WITHIN_NOISE * error or fall + _IN_FAVOUR * error > _NO_FALL * first:
            return None
        means = f"{first:.4g} in the first {part} steps, {last:.4g} in the last {part} of {count}"
        if fall < -_IN_FAVOUR * error:
            return f"the training loss rises: {means}. Lower train.learning_rate"
        return (
            f"the training loss {'has not fallen so far' if so_far else 'did not fall'}: {means}. "
            "Look at what is learned (the sample in train/checks.json), raise "
            "train.learning_rate, or adapt more layers (train.lora.target_modules)"
        )

    def _heldout_fell(self) -> bool:
        if not self._heldout:
            return False
        losses = [loss for _, loss in self._heldout]
        return min(losses) < losses[0] * (1 - _HELDOUT_CHANGE)

    def _overfitted(self) -> str | None:
        """Tell of a held-out loss that rises while that of the training rows falls."""
        if not self._heldout:
            return None
        best, lowest = min(self._heldout, key=lambda measured: measured[1])
        after = [loss for step, loss in self._heldout if step > best]
        high = [loss for loss in after if loss > lowest * (1 + _HELDOUT_CHANGE)]
        if len(high) < _RISES or after[-1] != high[-1]:
            return None
        span = max(len(self._losses) // 5, 1)
        before = fmean(self._losses[max(best - span, 0) : best] or self._losses[:span])
        now = fmean(self._losses[-span:])
        if now >= before:
            return None
        return (
            f"the held-out loss was lowest at step {best} ({lowest:.4g}) and has risen to "
            f"{after[-1]:.4g} by step {self._heldout[-1][0]}, while the training loss fell from "
            f"{before:.4g} to {now:.4g}: the rows are learned by heart. Set train.max_steps "
            f"to {max(best, 1)}, or lower train.num_train_epochs or train.learning_rate"
        )


@dataclass(frozen=True)
class _Explosion:
    step: int
    norm: float
    usual: float

    def __str__(self) -> str:
        return (
            f"step {self.step}: the gradient exploded: its norm is {self.norm:.3g}, "
            f"that of the steps before was {self.usual:.3g} (their median)"
        )


def _noise(losses: Sequence[float]) -> float:
    """Return the standard deviation of a step's loss around its trend.

    Differences of steps that follow each other hold the noise twice and almost nothing of a trend.
    """
    squares = ((later - earlier) ** 2 for earlier, later in pairwise(losses))
    return math.sqrt(fmean(squares) / 2)
