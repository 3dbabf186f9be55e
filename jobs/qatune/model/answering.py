"""What becomes of a chunk of questions: answers of base and adapter, and errors."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from qatune.data import requests
from qatune.data.prompts import Template
from qatune.data.records import Answer, AnsweredRow, FailedRow, Outcome
from qatune.data.requests import Fault, Question
from qatune.errors import QatuneError
from qatune.model import devices
from qatune.model.engines import protocol
from qatune.model.engines.protocol import Completion, Engine, Failure, Request
from qatune.model.loading import LoadedModel
from qatune.model.scoring import Row, Scored, score

Done = Callable[[int], None]
"""Hears of rows as they get their answers, and of 0 between batches. It may raise to stop."""


def encode(question: Question, tokenizer: Any, template: Template) -> Question:
    """Give a question the ids that training would see; those of preprocess stay as they are."""
    if question.prompt_ids is not None or question.question is None:
        return question
    eos = tokenizer.eos_token_id
    prompt: list[int] = tokenizer(template.prompt(question.question))["input_ids"]
    expected = None
    if question.expected is not None:
        completion = template.completion(question.expected)
        expected = [*tokenizer(completion, add_special_tokens=False)["input_ids"], eos]
    if prompt[-1:] == [eos]:
        prompt = prompt[:-1]
    return replace(question, prompt_ids=prompt, expected_ids=expected)


def text_of(ids: Sequence[int], tokenizer: Any, template: Template) -> str:
    """Return the answer that generated ids spell, without the template's white space before it."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text.removeprefix(template.gap)


class Answerer:
    """Answers and scores with one loaded model, with and without its adapter."""

    def __init__(
        self, loaded: LoadedModel, engine: Engine, template: Template, batch_size: int
    ) -> None:
        self._loaded, self._engine = loaded, engine
        self._template, self._batch_size = template, batch_size
        self._variants = (False, True) if protocol.has_adapter(loaded.model) else (False,)

    def broken(self) -> Fault | None:
        """Ask for a token after a prompt that cannot be at fault; return what fails for it."""
        harmless = [int(self._loaded.tokenizer.eos_token_id)]
        asked = [Request("", harmless, 1, adapter=adapter) for adapter in self._variants]
        results = self._engine.generate(asked)
        return next((each.fault for each in results if isinstance(each, Failure)), None)

    def requests(self, questions: Sequence[Question]) -> list[Request]:
        """Return what the engine would be asked for those questions that can be."""
        encoded = (self._encoded(question) for question in questions)
        return self._requests([each for each in encoded if isinstance(each, Question)])

    def answer(self, questions: Sequence[Question], done: Done) -> list[Outcome]:
        """Answer a chunk, in its order; ids are unique in it.

        What one row provokes is that row's error.
        """
        faults: dict[str, Fault] = {}
        usable = []
        for question in questions:
            encoded = self._encoded(question)
            if isinstance(encoded, Fault):
                faults[question.id] = encoded
            else:
                usable.append(encoded)
        done(len(faults))
        completions = self._complete(usable, faults, done)
        usable = [question for question in usable if question.id not in faults]
        scores = {adapter: self._score(usable, adapter, faults, done) for adapter in self._variants}
        encoded_rows = {question.id: question for question in usable}
        return [
            FailedRow(question.id, question.question, fault.code, fault.message)
            if (fault := faults.get(question.id))
            else self._row(encoded_rows[question.id], completions, scores)
            for question in questions
        ]

    def _encoded(self, question: Question) -> Question | Fault:
        if question.fault:
            return question.fault
        if fault := requests.fault(question.question or ""):
            return fault
        encoded = encode(question, self._loaded.tokenizer, self._template)
        vocabulary = protocol.vocabulary(self._loaded.model)
        return protocol.foreign_token(encoded.expected_ids or (), vocabulary) or encoded

    def _complete(
        self, questions: Sequence[Question], faults: dict[str, Fault], done: Done
    ) -> dict[tuple[str, bool], Completion]:
        """Return completions by (id, adapter); add what fails to `faults`."""
        asked = self._requests(questions)
        completions = {}
        last = self._variants[-1]
        for result in self._engine.generate(asked):
            request = result.request
            if isinstance(result, Failure):
                faults.setdefault(request.id, result.fault)
            else:
                completions[request.id, request.adapter] = result
            done(int(request.adapter == last))
        return completions

    def _requests(self, questions: Sequence[Question]) -> list[Request]:
        return [
            Request(row.id, row.prompt_ids or (), row.max_new_tokens, row.sampling, adapter)
            for row in questions
            for adapter in self._variants
        ]

    def _score(
        self, questions: Sequence[Question], adapter: bool, faults: dict[str, Fault], done: Done
    ) -> dict[str, Scored]:
        """Score the expected answers that fit into the model's positions."""
        rows: dict[str, Row] = {}
        for question in questions:
            prompt, expected = question.prompt_ids or (), question.expected_ids
            if expected and len(prompt) + len(expected) <= self._loaded.positions:
                rows[question.id] = ([*prompt, *expected], len(prompt))
        try:
            with protocol.variant(self._loaded.model, adapter=adapter):
                return self._score_rows(rows, done)
        except (torch.AcceleratorError, QatuneError):
            raise
        except Exception:  # noqa: BLE001 - one row's fault: found by scoring each alone
            devices.free_memory()
        scores: dict[str, Scored] = {}
        for name, row in rows.items():
            try:
                with protocol.variant(self._loaded.model, adapter=adapter):
                    scores |= self._score_rows({name: row}, done)
            except (torch.AcceleratorError, QatuneError):
                raise
            except Exception as error:  # noqa: BLE001 - as above
                faults.setdefault(name, protocol.error_fault(error))
        return scores

    def _score_rows(self, rows: dict[str, Row], done: Done) -> dict[str, Scored]:
        scored = score(
            self._loaded.model,
            list(rows.values()),
            batch_size=self._batch_size,
            pad_id=self._loaded.tokenizer.pad_token_id,
            done=lambda _: done(0),
        )
        return dict(zip(rows, scored, strict=True))

    def _row(
        self,
        question: Question,
        completions: dict[tuple[str, bool], Completion],
        scores: dict[bool, dict[str, Scored]],
    ) -> AnsweredRow:
        answers = [
            self._answer(completions[question.id, adapter], scores[adapter].get(question.id))
            for adapter in self._variants
        ]
        expected = question.expected_ids
        return AnsweredRow(
            id=question.id,
            question=question.question or "",
            expected=question.expected,
            expected_tokens=None if expected is None else len(expected),
            prompt_tokens=len(question.prompt_ids or ()),
            base=answers[0],
            adapter=answers[1] if len(answers) > 1 else None,
        )

    def _answer(self, completion: Completion, scored: Scored | None) -> Answer:
        ids = completion.token_ids
        return Answer(
            text=text_of(ids, self._loaded.tokenizer, self._template),
            tokens=len(ids),
            finish=completion.finish,
            nll=scored.nll / scored.tokens if scored else None,
        )
