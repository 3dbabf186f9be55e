"""Whether a training can be trusted: looked at before, during and after it, kept in checks.json."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from qatune import log, tracking
from qatune.data import learning
from qatune.model import adapters, gates
from qatune.model.gates import Collate, Gates
from qatune.model.journal import Journal
from qatune.model.training_rows import TrainingRows
from qatune.store.artifacts import StageRun

CHECKS = "checks.json"


class Supervision:
    """Looks at a training of `steps` steps, for the first of its processes or for another."""

    def __init__(self, stage: StageRun, journal: Journal, steps: int, *, first: bool) -> None:
        self._stage, self._journal, self._first = stage, journal, first
        self._train, self._steps = stage.recipe.train, steps
        self._before: Gates | None = None

    def check(self, rows: TrainingRows, collate: Collate, tokenizer: Any) -> None:
        """Look at what will be learned. Raises BadRecipeError or BadDataError."""
        self._before = gates.check(
            rows,
            collate,
            tokenizer,
            completion_only=self._train.completion_only_loss,
            counters=self._stage.parent("preprocess").counters,
        )
        if self._first:
            gates.tell(self._before)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Inside, log and trackers hear of each line of the journal as it comes."""
        if not self._first:
            yield
            return
        stage, watch, earlier = self._stage, self._watch(), self._journal.lines()
        watch.see(earlier)  # the start that wrote them has said it

        def warn(lines: Sequence[learning.Line]) -> None:
            for sentence in watch.see(lines):
                log.get().warning(sentence)

        of = (stage.recipe, stage.run, stage.upstream["preprocess"][1])
        with tracking.streaming(*of, earlier, stage.note) as send:
            self._journal.readers += [warn, send]
            yield

    def conclude(self, model: Any) -> None:
        """Write checks.json: of the training itself what the whole journal says."""
        assert self._before is not None
        watch = self._watch()
        watch.see(self._journal.lines())
        later = watch.verdict()
        if not adapters.changes_something(model):
            later.append(learning.UNCHANGED)
        for sentence in later:
            log.get().warning(sentence)
        content = self._before.content(later)
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
        self._stage.create(CHECKS, (text + "\n").encode())

    def _watch(self) -> learning.Watch:
        return learning.Watch(self._steps, self._train.max_grad_norm)
