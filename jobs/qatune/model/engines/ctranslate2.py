"""Answers through CTranslate2: the base, and the base with its adapter merged in, converted anew.

Greedy only: its random draws are not ours. Its arithmetic is not torch's, so that its answers
count only after `parity` has compared them.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qatune import config
from qatune.errors import BadRecipeError
from qatune.importing import check_engine
from qatune.model.engines.protocol import (
    Completion,
    Failure,
    Request,
    budget,
    completion,
    sort_out,
    until,
)
from qatune.model.engines.static import alternating, batches, isolated
from qatune.model.loading import LoadedModel
from qatune.model.opening import FoundModel


@dataclass(frozen=True)
class _Converted:
    generator: Any
    tokens: Sequence[str]
    """By id: CTranslate2 takes and gives text."""


class CTranslate2Engine:
    def __init__(
        self, loaded: LoadedModel, converted: Mapping[bool, _Converted], spec: config.Generate
    ) -> None:
        """Take the model converted without (False) and with (True) its adapter."""
        self.compute_type: str = spec.compute_type
        self._converted, self._batch_size = converted, spec.batch_size
        self._eos = int(loaded.tokenizer.eos_token_id)
        self._positions = loaded.positions

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion | Failure]:
        """Yield results batch by batch, short prompts first; a row that samples is a failure."""
        words = min(len(each.tokens) for each in self._converted.values())
        greedy, failures = sort_out(requests, self._positions, words, "ctranslate2")
        yield from failures
        for batch in alternating(
            batches(
                [row for row in greedy if row.adapter == adapter], self._batch_size, self._positions
            )
            for adapter in self._converted
        ):
            yield from isolated(batch, self._complete)

    def score(self, answered: Sequence[Completion]) -> list[float]:
        """Return each answer's mean negative log-likelihood per token, in nats."""
        means = []
        for each in answered:
            converted = self._converted[each.request.adapter]
            prompt = each.request.prompt_ids
            words = [converted.tokens[token] for token in (*prompt, *each.token_ids)]
            (result,) = converted.generator.score_batch([words], max_input_length=0)
            own = result.log_probs[len(prompt) - 1 :]
            means.append(-sum(own) / len(own))
        return means

    def _complete(self, batch: Sequence[Request]) -> list[Completion]:
        converted = self._converted[batch[0].adapter]
        budgets = [budget(request, self._positions) for request in batch]
        results = converted.generator.generate_batch(
            [[converted.tokens[token] for token in request.prompt_ids] for request in batch],
            max_length=max(budgets),
            beam_size=1,
            include_prompt_in_result=False,
            end_token=[self._eos],
            return_end_token=True,
        )
        return [
            completion(request, until(self._eos, result.sequences_ids[0][:most]), self._eos)
            for request, result, most in zip(batch, results, budgets, strict=True)
        ]


def open_engine(
    model: FoundModel, loaded: LoadedModel, recipe: config.Recipe, scratch: Path
) -> CTranslate2Engine:
    """Convert the model into `scratch`, and load what came out.

    Raises BadRecipeError where CTranslate2 is not installed or does not know the architecture.
    """
    check_engine("ctranslate2")
    compute_type = recipe.generate.compute_type
    converted = {False: _convert(model.base.path, scratch / "base", compute_type, loaded)}
    if model.adapter is not None:
        merged = scratch / "merged"
        _save_merged(model, recipe.model, merged)
        converted[True] = _convert(merged, scratch / "adapted", compute_type, loaded)
        shutil.rmtree(merged)
    return CTranslate2Engine(loaded, converted, recipe.generate)


def _save_merged(model: FoundModel, spec: config.Model, folder: Path) -> None:
    """Write base and adapter as one model, merged in float32, whatever they were trained in."""
    plain = spec.model_copy(update={"quantization": "none", "dtype": "float32"})
    # What is to be noted of the precision has been noted when the model itself was loaded.
    merged = model.load(plain, lambda _: None)
    merged.model.merge_and_unload().save_pretrained(folder)
    merged.tokenizer.save_pretrained(folder)


def _convert(source: Path, target: Path, compute_type: str, loaded: LoadedModel) -> _Converted:
    import ctranslate2

    try:
        converter = ctranslate2.converters.TransformersConverter(str(source))
        converter.convert(str(target), quantization=compute_type)
    except (ValueError, NotImplementedError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split()).partition(" (")[0]
        raise BadRecipeError(
            f"recipe.generate.engine: ctranslate2 cannot convert this model: {reason}; "
            "set engine to continuous"
        ) from error
    generator = ctranslate2.Generator(
        str(target),
        device=loaded.device,
        compute_type=compute_type,
        intra_threads=torch.get_num_threads(),
    )
    return _Converted(generator, json.loads((target / "vocabulary.json").read_bytes()))
