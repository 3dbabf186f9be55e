"""The chain of manifests: whatever changes in it, what follows from it no longer counts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.mutated import FUZZED, PROVEN

from qatune import recipe
from qatune.config import Recipe
from qatune.errors import BadRecipeError, MissingInputError
from qatune.store import manifests
from qatune.store.artifacts import StageRun, is_complete
from qatune.store.manifests import Manifest, manifest_key
from qatune.store.memory import MemoryStore
from qatune.store.objects import ObjectRef

RUN = "r"
# Each manifest asks for the versions of all libraries, which takes a while.
CHAINED = settings(PROVEN, max_examples=35)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_subnormal=False, allow_nan=False))
NAMED = st.dictionaries(TEXTS, TEXTS, max_size=3)
REFS = st.lists(st.builds(ObjectRef, TEXTS, TEXTS, st.integers(0, 2**60)), max_size=4)
MANIFESTS = st.builds(
    Manifest,
    run=st.just(RUN),
    stage=st.sampled_from(["preprocess", "train", "generate", "evaluate"]),
    recipe_sha256=TEXTS,
    parents=NAMED,
    inputs=REFS,
    outputs=REFS,
    counters=st.dictionaries(TEXTS, st.one_of(NUMBERS, TEXTS, st.none()), max_size=4),
    seconds=st.dictionaries(TEXTS, st.floats(0, 1e9, allow_subnormal=False), max_size=3),
    notes=st.lists(TEXTS, max_size=3),
    versions=NAMED,
    device=TEXTS,
    image=st.one_of(st.none(), TEXTS),
    finished=TEXTS,
)
RECIPES = st.builds(
    lambda source, seed, adapter, questions: recipe.validate(
        {
            "model": {"source": source},
            "data": {"source": "rows.csv"},
            "train": {"seed": seed},
            "generate": {"adapter": adapter, "input": questions},
        }
    ),
    st.sampled_from(["./a", "./b"]),
    st.integers(0, 3),
    st.sampled_from(["train", "none", "./elsewhere"]),
    st.sampled_from([None, "questions.jsonl"]),
)


def stages_of(ours: Recipe):
    """Name the stages that a run of this recipe has, each after its parents."""
    return [
        stage
        for stage in ("preprocess", "train", "generate", "evaluate")
        if stage != "train" or ours.generate.adapter == "train"
    ]


@st.composite
def chains(draw):
    """Draw a recipe, and how far a run of it has come; write that to a store."""
    ours, store = draw(RECIPES), MemoryStore()
    names = stages_of(ours)
    done = names[: draw(st.integers(1, len(names)))]
    for name in done:
        stage = StageRun.open(store, RUN, name, ours)
        for number in range(draw(st.integers(0, 2))):
            stage.create(f"output-{number}", draw(st.binary(max_size=20)))
        stage.counters["rows"] = draw(st.integers(0, 9))
        stage.finish()
    return store, ours, done


def read_by(stage, ours):
    """Name the stages whose outputs a stage reads, as the documentation has it."""
    return {
        "preprocess": [],
        "train": ["preprocess"],
        "generate": ["preprocess"] * (ours.generate.input is None)
        + ["train"] * (ours.generate.adapter == "train"),
        "evaluate": ["generate"],
    }[stage]


def children(stage, ours, done):
    return [each for each in done if stage in read_by(each, ours)]


def replaced(store, stage, **changes):
    """Put a whole and sealed manifest, but of another content, in a stage's place."""
    manifest, _ = manifests.load(store, RUN, stage)
    other = manifests.encode(manifest.model_copy(update=changes))
    store.replace(manifest_key(RUN, stage), other)


def assert_refused(store, stage, ours):
    with pytest.raises(MissingInputError, match="belongs to another recipe or other inputs"):
        is_complete(store, RUN, stage, ours)


@FUZZED
@given(MANIFESTS)
def test_a_manifest_is_read_back_as_it_was_written(manifest):
    store = MemoryStore()
    store.create(manifest_key(RUN, manifest.stage), manifests.encode(manifest))
    found, _ = manifests.load(store, RUN, manifest.stage)
    assert found.model_dump(exclude={"seal"}) == manifest.model_dump(exclude={"seal"})
    assert [type(each) for each in found.counters.values()] == [
        type(manifest.counters[name]) for name in found.counters
    ]
    assert manifests.encode(found) == manifests.encode(manifest)


@FUZZED
@given(MANIFESTS, st.data())
def test_a_manifest_of_which_one_byte_is_another_is_refused(manifest, data):
    written = bytearray(manifests.encode(manifest))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    store = MemoryStore()
    store.create(manifest_key(RUN, manifest.stage), bytes(written))
    with pytest.raises(MissingInputError, match="was edited or damaged"):
        manifests.load(store, RUN, manifest.stage)


@CHAINED
@given(chains())
def test_what_is_written_counts_and_the_rest_does_not(chain):
    store, ours, done = chain
    for stage in stages_of(ours):
        assert is_complete(store, RUN, stage, ours) == (stage in done)


@CHAINED
@given(chains(), RECIPES)
def test_of_another_recipe_no_stage_counts(chain, other):
    store, ours, done = chain
    if other == ours:
        return
    for stage in done:
        with pytest.raises(MissingInputError):
            is_complete(store, RUN, stage, other)
    with pytest.raises(BadRecipeError, match="already has another recipe"):
        StageRun.open(store, RUN, "preprocess", other)


@CHAINED
@given(chains(), TEXTS, st.data())
def test_a_stage_whose_parent_is_another_does_not_count(chain, note, data):
    store, ours, done = chain
    changed = data.draw(st.sampled_from(done))
    replaced(store, changed, notes=[note], counters={"rows": 10})
    below = children(changed, ours, done)
    for stage in done:
        if stage in below:
            assert_refused(store, stage, ours)
        else:
            assert is_complete(store, RUN, stage, ours)


@CHAINED
@given(chains(), st.data())
def test_a_stage_whose_parent_is_gone_does_not_count(chain, data):
    store, ours, done = chain
    gone = data.draw(st.sampled_from(done))
    store.delete(manifest_key(RUN, gone))
    assert not is_complete(store, RUN, gone, ours)
    for stage in children(gone, ours, done):
        with pytest.raises(MissingInputError, match=f"{gone} of run 'r' is not complete"):
            is_complete(store, RUN, stage, ours)
        with pytest.raises(MissingInputError, match=f"{gone} of run 'r' is not complete"):
            StageRun.open(store, RUN, stage, ours)


@CHAINED
@given(chains(), NAMED, st.data())
def test_a_stage_that_names_other_parents_does_not_count(chain, named, data):
    store, ours, done = chain
    stage = data.draw(st.sampled_from(done))
    before = dict(manifests.load(store, RUN, stage)[0].parents)
    claimed = data.draw(st.sampled_from([before | named, dict.fromkeys(before, "0" * 64), {}]))
    replaced(store, stage, parents=claimed)
    if claimed == before:
        assert is_complete(store, RUN, stage, ours)
    else:
        assert_refused(store, stage, ours)


@CHAINED
@given(chains(), st.data())
def test_a_manifest_in_another_s_place_is_refused(chain, data):
    store, _, done = chain
    stage = data.draw(st.sampled_from(done))
    other = data.draw(st.sampled_from(["preprocess", "train", "generate", "evaluate"]))
    if other == stage:
        return
    store.replace(manifest_key(RUN, other), store.read(manifest_key(RUN, stage)))
    with pytest.raises(MissingInputError, match=f"belongs to {stage} of run 'r'"):
        manifests.load(store, RUN, other)


@CHAINED
@given(chains())
def test_a_stage_that_ran_again_agrees_or_is_refused(chain):
    store, ours, done = chain
    for stage in done:
        again = StageRun.open(store, RUN, stage, ours)
        for ref in manifests.load(store, RUN, stage)[0].outputs:
            again.adopt(ref.key.rsplit("/", 1)[-1])
        again.finish()
        again.create("one-more", b"more")
        with pytest.raises(MissingInputError, match="finished this with another result"):
            again.finish()
