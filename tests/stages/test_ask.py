import io

import pytest
from rich.console import Console
from tests.stages.test_generate import MAKERS
from tests.support import answering
from tests.support.answering import lines

from qatune import log
from qatune.errors import BadDataError, MissingInputError
from qatune.stages import ask, generate
from qatune.store.memory import MemoryStore

QUESTION = "What does textwrap.dedent do?"


@pytest.fixture(scope="module", params=sorted(MAKERS))
def folder(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    return answering.random_adapter(folder, tmp_path_factory.mktemp("adapter"))


def base_only(llama, **settings):
    store = MemoryStore()
    answering.prepared(store, llama, None, [(QUESTION, "x")], adapter="none", **settings)
    return store


def test_both_answer_as_in_the_batch(folder, adapter, capsys):
    store = MemoryStore()
    stage = answering.prepared(store, folder, adapter, [(QUESTION, "x")])
    ask.answer(store, answering.RUN, QUESTION)
    shown = capsys.readouterr().out
    generate.run(stage)
    (row,) = lines(store, "parts/")
    assert row["base"]["text"] != row["adapter"]["text"]
    base, tuned = (log.printable(row[name]["text"]) for name in ("base", "adapter"))
    assert shown == f"base: {base}\nadapter: {tuned}\n"


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_models_answer_in_one_batch_too(folder, adapter, capsys, quantization):
    store = MemoryStore()
    model = {"quantization": quantization}
    answering.prepared(store, folder, adapter, [(QUESTION, "x")], model=model, temperature=0.5)
    ask.answer(store, answering.RUN, QUESTION)
    base, _, tuned = capsys.readouterr().out.removeprefix("base: ").partition("\nadapter: ")
    assert base
    assert base != tuned.removesuffix("\n")


def test_on_a_terminal_the_answers_grow_side_by_side(folder, adapter, monkeypatch, capsys):
    store = MemoryStore()
    answering.prepared(store, folder, adapter, [(QUESTION, "x")])
    ask.answer(store, answering.RUN, QUESTION)
    plain = capsys.readouterr().out
    screen = io.StringIO()
    monkeypatch.setattr(
        ask, "Console", lambda **_: Console(file=screen, force_terminal=True, width=200)
    )
    steps = []
    draw = ask._side_by_side
    monkeypatch.setattr(ask, "_side_by_side", lambda texts: steps.append(texts) or draw(texts))
    ask.answer(store, answering.RUN, QUESTION)
    assert len(steps) > 1
    assert all(len(texts) == 2 for texts in steps)
    assert f"base: {steps[-1][0]}\nadapter: {steps[-1][1]}\n" == plain
    titles = next(line for line in screen.getvalue().splitlines() if "base" in line)
    assert titles.index("base") < titles.index("adapter")


def test_without_a_question_it_asks_until_an_empty_line(llama, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n\nnever\n"))
    screen = io.StringIO()
    monkeypatch.setattr(
        ask, "Console", lambda **_: Console(file=screen, force_terminal=True, width=200)
    )
    ask.answer(base_only(llama), answering.RUN, None)
    assert screen.getvalue().count("question>") == 2
    assert "never" not in screen.getvalue()


def test_every_question_of_a_file_is_answered_or_refused(llama, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\n{'word ' * 400}\n\nshort\n"))
    with pytest.raises(BadDataError, match="1 questions got no answer"):
        ask.answer(base_only(llama), answering.RUN, None)
    shown = capsys.readouterr()
    assert shown.out.count("base: ") == 2
    assert "no room for an answer" in shown.err


def test_an_answer_cannot_steer_the_terminal(llama, monkeypatch, capsys):
    monkeypatch.setattr(ask, "text_of", lambda *_: "\x1b]0;title\x07red\nline")
    ask.answer(base_only(llama), answering.RUN, QUESTION)
    assert capsys.readouterr().out == "base: ]0;titlered\nline\n"


def test_the_end_of_the_input_ends_it(llama, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(QUESTION))
    ask.answer(base_only(llama), answering.RUN, None)
    assert capsys.readouterr().out.count("base: ") == 1


@pytest.mark.parametrize(("asked", "reason"), [(" ", "empty"), ("w " * 400, "no room")])
def test_a_question_that_cannot_be_answered_says_so(llama, asked, reason):
    with pytest.raises(BadDataError, match=reason):
        ask.answer(base_only(llama), answering.RUN, asked)


def test_an_untrained_run_has_nothing_to_ask(llama):
    store = MemoryStore()
    ours = answering.recipe(llama)
    answering.hold_out(store, ours, [(QUESTION, "x")], llama)
    with pytest.raises(MissingInputError, match="run it first: qatune train --run tiny"):
        ask.answer(store, answering.RUN, QUESTION)
    with pytest.raises(MissingInputError, match="no run 'other'"):
        ask.answer(store, "other", QUESTION)
