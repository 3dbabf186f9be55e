"""Let a person try a run: base and adapter answer a question, side by side."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qatune import log
from qatune.config import Recipe
from qatune.data import requests
from qatune.data.prompts import Template
from qatune.data.requests import Fault, Question, Sampling
from qatune.errors import BadDataError, MissingInputError
from qatune.model.answering import encode, text_of
from qatune.model.engines.protocol import Request
from qatune.model.loading import LoadedModel
from qatune.model.opening import find_model
from qatune.model.pairing import answer_both
from qatune.store import artifacts, manifests
from qatune.store.manifests import Manifest
from qatune.store.objects import Store
from qatune.store.sources import base_model

_NAMES = ("base", "adapter")


def answer(store: Store, run: str, question: str | None) -> None:
    """Answer a question, or one after the other from the terminal until an empty line.

    Raises MissingInputError while the run has no adapter, BadDataError for a question that
    cannot be answered.
    """
    recipe = artifacts.bound_recipe(store, run)
    train = _trained(store, run) if recipe.generate.adapter == "train" else None
    with log.console.status("loading the model"), tempfile.TemporaryDirectory() as scratch:
        base = base_model(store, run, recipe.model)
        model = find_model(base, store, recipe, train, Path(scratch))
        loaded = model.load(recipe.model, log.get().warning)
    console = Console(highlight=False)
    if question is not None:
        if fault := _answer(loaded, recipe, question, console):
            raise BadDataError(fault.message)
        return
    refused = 0
    for asked in _questions(console):
        if fault := _answer(loaded, recipe, asked, console):
            click.echo(fault.message, err=True)
            refused += 1
    if refused and not console.is_terminal:
        raise BadDataError(f"{refused} questions got no answer")


def _trained(store: Store, run: str) -> Manifest:
    found = manifests.load(store, run, "train")
    if found is None:
        raise MissingInputError(
            f"{store.uri}: train of run {run!r} is not complete, so there is no adapter to ask; "
            f"run it first: qatune train --run {run} --store {store.uri}"
        )
    return found[0]


def _questions(console: Console) -> Iterator[str]:
    """Read questions to the end of the input; on a terminal an empty line ends it, too."""
    while True:
        try:
            asked = console.input("[cyan]question>[/] " if console.is_terminal else "")
        except EOFError:
            return
        if asked.strip():
            yield asked
        elif console.is_terminal:
            return


def _answer(loaded: LoadedModel, recipe: Recipe, asked: str, console: Console) -> Fault | None:
    """Show both answers as they grow; return why there are none."""
    if fault := requests.fault(asked):
        return fault
    template, spec = Template.of(recipe.data), recipe.generate
    encoded = encode(Question("ask", asked, spec.max_new_tokens), loaded.tokenizer, template)
    sampling = Sampling(spec.temperature, spec.top_p, spec.top_k, spec.seed)
    request = Request("ask", encoded.prompt_ids or (), spec.max_new_tokens, sampling)

    def texts(answers: Sequence[list[int]]) -> list[str]:
        return [log.printable(text_of(ids, loaded.tokenizer, template)) for ids in answers]

    if console.is_terminal:
        with Live(console=console, vertical_overflow="visible") as live:
            result = answer_both(
                loaded, request, lambda answers: live.update(_side_by_side(texts(answers)))
            )
    else:
        result = answer_both(loaded, request, lambda _: None)
    if isinstance(result, Fault):
        return result
    if not console.is_terminal:
        for name, text in zip(_NAMES, texts(result), strict=False):
            click.echo(f"{name}: {text}")
    return None


def _side_by_side(texts: Sequence[str]) -> Table:
    table = Table.grid(expand=True, padding=(0, 1))
    panels = []
    for name, text in zip(_NAMES, texts, strict=False):
        table.add_column(ratio=1)
        panels.append(Panel(Text(text), title=name, title_align="left"))
    table.add_row(*panels)
    return table
