"""Another engine answers only after it has shown what the default one gives."""

import json

import pytest
from tests.support import answering, tiny
from tests.support.answering import PAIRS, lines, run

from qatune import recipe
from qatune.data.requests import Question
from qatune.errors import BadRecipeError
from qatune.model.engines import parity
from qatune.model.engines.ctranslate2 import CTranslate2Engine
from qatune.stages import evaluate, generate
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tiny.tiny_llama(tmp_path_factory.mktemp("llama"))
    return folder, answering.random_adapter(folder, tmp_path_factory.mktemp("adapter"))


def texts(store):
    return {
        row["id"]: (row["base"]["text"], row["adapter"]["text"]) for row in lines(store, "parts/")
    }


def test_an_engine_that_shows_parity_answers_and_its_certificate_is_kept(made, monkeypatch):
    asked = []
    complete = CTranslate2Engine._complete

    def counting(self, batch):
        asked.extend(request.id for request in batch)
        return complete(self, batch)

    monkeypatch.setattr(CTranslate2Engine, "_complete", counting)
    plain, store = MemoryStore(), MemoryStore()
    run(plain, *made)
    run(store, *made, engine="ctranslate2")
    (certificate,) = answering.manifest(store).certificates
    assert (certificate.engine, certificate.compute_type) == ("ctranslate2", "float32")
    assert (certificate.rows, certificate.rows_equal) == (14, 14)
    assert certificate.passed
    assert certificate.largest_difference < 1e-3
    assert texts(store) == texts(plain)
    assert sorted(asked) == sorted([str(n) for n in range(1, 8)] * 4)  # compared, then answered
    assert not answering.manifest(store).notes
    assert answering.manifest(plain).certificates == []


def test_an_engine_that_differs_is_replaced_and_a_note_says_so(made, monkeypatch):
    complete = CTranslate2Engine._complete

    def wrong(self, batch):
        made = complete(self, batch)
        for one in made:
            one.token_ids[0] = 5
        return made

    monkeypatch.setattr(CTranslate2Engine, "_complete", wrong)
    plain, store = MemoryStore(), MemoryStore()
    run(plain, *made)
    run(store, *made, engine="ctranslate2")
    (certificate,) = answering.manifest(store).certificates
    assert (certificate.rows_equal, certificate.passed) == (0, False)
    (note,) = answering.manifest(store).notes
    assert "0 of 14 sampled answers equal (90% asked)" in note
    assert texts(store) == texts(plain)


def test_likelihoods_that_differ_are_no_parity(made, monkeypatch):
    score = CTranslate2Engine.score
    monkeypatch.setattr(
        CTranslate2Engine, "score", lambda self, rows: [mean + 0.2 for mean in score(self, rows)]
    )
    store = MemoryStore()
    run(store, *made, engine="ctranslate2")
    (certificate,) = answering.manifest(store).certificates
    assert certificate.rows_equal == 14
    assert certificate.largest_difference == pytest.approx(0.2, abs=1e-3)
    assert not certificate.passed


def test_int8_states_what_it_costs(made):
    store = MemoryStore()
    run(store, *made, engine="ctranslate2", compute_type="int8", parity=0)
    (certificate,) = answering.manifest(store).certificates
    assert certificate.compute_type == "int8"
    assert certificate.largest_difference > 1e-4


def test_the_certificates_of_all_shards_are_in_the_manifest_and_on_the_page(made):
    store = MemoryStore()
    stage = answering.prepared(store, *made, PAIRS, engine="ctranslate2")
    for shard in range(2):
        opened = StageRun.open(store, answering.RUN, "generate", stage.recipe)
        generate.run(opened, shard, 2)
    certificates = answering.manifest(store).certificates
    assert [each.rows for each in certificates] == [8, 6]
    evaluating = StageRun.open(store, answering.RUN, "evaluate", stage.recipe)
    evaluate.run(evaluating)
    html = store.read(evaluating.key("report.html")).decode()
    assert html.count('<th scope="row">ctranslate2 float32</th>') == 2


def test_the_sample_is_the_same_whatever_the_order():
    rows = [Question(str(number), "q", 1) for number in range(100)]
    assert parity.sample(rows) == parity.sample(rows[::-1])
    assert len(parity.sample(rows)) == parity.SAMPLE


def test_an_architecture_that_does_not_convert_is_a_bad_recipe(made, monkeypatch):
    from ctranslate2.converters import transformers

    monkeypatch.delitem(transformers._MODEL_LOADERS, "LlamaConfig")
    with pytest.raises(BadRecipeError, match=r"ctranslate2 cannot convert this .*LlamaConfig"):
        run(MemoryStore(), *made, engine="ctranslate2")


def test_without_the_package_the_recipe_says_what_to_install(made, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ctranslate2", None)
    with pytest.raises(BadRecipeError, match=r"install qatune\[ctranslate2\]"):
        run(MemoryStore(), *made, engine="ctranslate2")


def test_sampling_is_refused_by_engines_with_draws_of_their_own(made, tmp_path):
    fields = answering.recipe(made[0]).model_dump()
    fields["generate"] |= {"engine": "ctranslate2", "temperature": 0.7}
    with pytest.raises(BadRecipeError, match=r"generate: .*draws otherwise"):
        recipe.validate(fields)
    questions = tmp_path / "questions.jsonl"
    body = {"messages": [{"role": "user", "content": "def add"}], "model": "m"}
    lines_ = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body | more}
        for name, more in (("a", {"temperature": 0}), ("b", {"temperature": 1.0}))
    ]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines_))
    store = MemoryStore()
    run(store, made[0], None, adapter="none", input=str(questions), engine="ctranslate2")
    assert [row["code"] for row in lines(store, "errors/")] == ["unsupported_sampling"]
    assert len(lines(store, "parts/")) == 1
