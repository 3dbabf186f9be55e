"""The certificate of an engine: how its answers compare with the default engine's."""

import heapq
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Protocol

from qatune import config
from qatune.data.requests import Question
from qatune.model.engines.protocol import Completion, Engine, Request, variant
from qatune.model.loading import LoadedModel
from qatune.model.scoring import score
from qatune.store.manifests import Certificate

SAMPLE = 16
"""Questions compared; each by base and adapter."""
LARGEST_DIFFERENCE = 0.1
"""Nats per token by which the likelihood of an answer may differ, whatever share is equal."""


class Candidate(Engine, Protocol):
    """An engine that computes by other means than the loaded model."""

    compute_type: str
    """What it multiplies in."""

    def score(self, answered: Sequence[Completion]) -> list[float]:
        """Return each answer's mean negative log-likelihood per token, in nats."""


def sample(questions: Iterable[Question]) -> list[Question]:
    """Choose the questions to compare: by their ids alone, so the same at every start."""
    return heapq.nsmallest(SAMPLE, questions, key=lambda row: sha256(row.id.encode()).digest())


def certify(
    candidate: Candidate,
    default: Engine,
    loaded: LoadedModel,
    requests: Sequence[Request],
    spec: config.Generate,
) -> Certificate:
    """Answer with both engines and compare.

    Rows that sample, which no candidate answers, and those that the default one fails for do not
    count; without any other there is no parity.
    """
    greedy = [request for request in requests if request.sampling.temperature <= 0]
    expected = _answers(default, greedy)
    found = _answers(candidate, [answer.request for answer in expected.values()])
    equal = sum(
        key in found and found[key].token_ids == answer.token_ids
        for key, answer in expected.items()
    )
    difference = _difference(candidate, loaded, list(expected.values()))
    share = equal / len(expected) if expected else 0.0
    return Certificate(
        engine=spec.engine,
        compute_type=candidate.compute_type,
        rows=len(expected),
        rows_equal=equal,
        asked_share=spec.parity,
        largest_difference=round(difference, 6),
        allowed_difference=LARGEST_DIFFERENCE,
        passed=share >= spec.parity and difference <= LARGEST_DIFFERENCE and bool(expected),
    )


def refusal(certificate: Certificate) -> str:
    """Say why an engine does not answer, for the manifest's notes."""
    return (
        f"generate.engine {certificate.engine} ({certificate.compute_type}) did not show parity: "
        f"{certificate.rows_equal} of {certificate.rows} sampled answers equal "
        f"({certificate.asked_share:.0%} asked), likelihoods differ by up to "
        f"{certificate.largest_difference:g} nats a token "
        f"({certificate.allowed_difference:g} allowed); the default engine is used instead"
    )


def _answers(engine: Engine, requests: Sequence[Request]) -> dict[tuple[str, bool], Completion]:
    results = engine.generate(requests)
    return {
        (result.request.id, result.request.adapter): result
        for result in results
        if isinstance(result, Completion)
    }


def _difference(candidate: Candidate, loaded: LoadedModel, answers: Sequence[Completion]) -> float:
    """Return by how much the likelihoods of the default engine's answers differ at most."""
    differences = [0.0]
    for adapter in (False, True):
        own = [answer for answer in answers if answer.request.adapter == adapter]
        rows = [
            ([*each.request.prompt_ids, *each.token_ids], len(each.request.prompt_ids))
            for each in own
        ]
        with variant(loaded.model, adapter=adapter and bool(own)):
            pad_id = int(loaded.tokenizer.eos_token_id)
            scored = score(loaded.model, rows, batch_size=SAMPLE, pad_id=pad_id)
        differences += [
            abs(ours.nll / ours.tokens - theirs)
            for ours, theirs in zip(scored, candidate.score(own), strict=True)
        ]
    return max(differences)
