"""The recipe: what it accepts, what it says of a wrong one, and the shipped ones."""

import json

import pytest
import yaml

from qatune import recipe
from qatune.config import Recipe
from qatune.errors import BadRecipeError, MissingInputError

MINIMAL = {"model": {"source": "./model"}, "data": {"source": "qa.csv"}}


def with_fields(**fields):
    return recipe.validate({**MINIMAL, **fields})


def fault(*overrides, name="demo"):
    with pytest.raises(BadRecipeError) as raised:
        recipe.load(name, overrides)
    assert raised.value.exit_code == 78
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("written", ["2e-4", 2e-4, "0.0002", "2E-04"])
def test_numbers_as_yaml_and_helm_write_them(written):
    assert with_fields(train={"learning_rate": written}).train.learning_rate == 2e-4


def test_pyyaml_takes_2e_4_for_text_and_the_recipe_still_gets_a_number(tmp_path):
    text = "recipe: {model: {source: ./m}, data: {source: a.csv}, train: {learning_rate: 2e-4}}"
    assert yaml.safe_load(text)["recipe"]["train"]["learning_rate"] == "2e-4"
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert recipe.load(str(path)).train.learning_rate == 2e-4


@pytest.mark.parametrize("written", ["1e+06", 1e6, "1000000", 1000000])
def test_a_million_as_helm_prints_it(written):
    assert with_fields(train={"max_steps": written}).train.max_steps == 1_000_000


@pytest.mark.parametrize(
    ("written", "read"), [("0.2", 0.2), (0.2, 0.2), ("2e-1", 0.2), ("64", 64), (64, 64), ("1", 1)]
)
def test_a_share_and_a_number_of_rows_are_told_apart(written, read):
    size = with_fields(data={"source": "a", "split": {"test_size": written}}).data.split.test_size
    assert size == read
    assert type(size) is type(read)


@pytest.mark.parametrize("written", ["0", -1, 1.5, "1.5", "nan"])
def test_impossible_test_sizes_are_refused(written):
    with pytest.raises(BadRecipeError, match=r"recipe\.data\.split\.test_size"):
        with_fields(data={"source": "a", "split": {"test_size": written}})


def leaves(section, prefix=""):
    for name, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize(
    ("field", "value"), list(leaves(recipe.load("llama-3.2-1b").model_dump(mode="json")))
)
def test_set_works_on_every_field(field, value):
    text = value if isinstance(value, str) else json.dumps(value)
    changed = recipe.load("demo", [f"{field}={text}"]).model_dump(mode="json")
    assert dict(leaves(changed))[field] == value


def test_a_mistyped_field_is_named_with_the_one_that_was_meant():
    line = fault("train.lora.rank=8")
    assert line == "recipe.train.lora.rank: unknown field; did you mean r?"


def test_a_field_in_the_wrong_place_is_shown_where_it_belongs():
    assert "did you mean train.learning_rate?" in fault("learning_rate=1e-4")
    assert "did you mean train.learning_rate?" in fault("train.lora.learning_rate=1e-4")


def test_a_wrong_value_is_named_with_what_it_is():
    line = fault("train.learning_rate=fast")
    assert line.startswith("recipe.train.learning_rate: ")
    assert "'fast'" in line


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.max_steps", "field=value"),
        ("train.lora.target_modules=[q_proj", "not YAML"),
        ("model.source.deeper=1", "has no fields below it"),
        ("data.template=no placeholders", "{question} and {answer}"),
        ("data.template={answer} {question}", "recipe.data.template"),
        ("train.max_steps=1.5", "recipe.train.max_steps"),
        ("model.quantization=nf3", "'nf4'"),
        ("train.seed=-1", "recipe.train.seed"),
        ("train.seed=4294967296", "recipe.train.seed"),
        ("train.lora.target_modules=[]", "at least 1 item"),
        ("train.lora.bias=all", "'none'"),
        (
            "train.lora.target_modules=q_proj",
            "input should be 'all-linear' or input should be a list, as in ['q_proj'] (it is",
        ),
        ("train.report_to=wandb", "input should be a list, as in ['wandb'] (it is 'wandb')"),
        ("data.split.test_size=some", "recipe.data.split.test_size: "),
        ("train.lora=4", "recipe.train.lora: input should be an object (it is '4')"),
    ],
)
def test_one_line_for_each_fault(override, part):
    assert part in fault(override)


def test_a_recipe_that_is_nowhere():
    with pytest.raises(MissingInputError, match="no such file, and not one of demo") as raised:
        recipe.load("demmo")
    assert raised.value.exit_code == 66


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("recipe: [", "not YAML"),
        ("train: {}", "no recipe in it"),
        ("", "no recipe in it"),
        ("recipe: {model: {source: a}, data: {source: b}}\nstage: {}", "stage: unknown field; did"),
        ("recipe: {data: {source: a}}", "recipe.model: must be given"),
        ("recipe:\n  data: {source: a}\n  data: {source: b}", "key 'data' is there twice"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, part):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert part in fault(name=str(path))


def test_canonical_bytes_are_read_back_equal():
    for name in recipe.shipped():
        loaded = recipe.load(name)
        assert recipe.parse(recipe.canonical(loaded), "here") == loaded


def test_differences_name_field_and_values():
    ours = recipe.load("demo")
    theirs = recipe.load("demo", ["train.seed=7"])
    assert recipe.differences(ours, theirs) == ["train.seed: 42 there, 7 here"]
    assert recipe.digest(ours) != recipe.digest(theirs)


REFERENCE = {
    "model.quantization": "nf4",
    "model.double_quant": True,
    "model.dtype": "float16",
    "data.template": "### Question: {question}\n### Answer: {answer}",
    "data.max_length": 1023,
    "data.length_unit": "characters",
    "data.drop_duplicates": False,
    "data.split.method": "shuffle",
    "data.split.test_size": 0.2,
    "data.split.seed": 42,
    "train.lora.r": 16,
    "train.lora.lora_alpha": 32,
    "train.lora.lora_dropout": 0.2,
    "train.lora.bias": "none",
    "train.optim": "paged_adamw_32bit",
    "train.learning_rate": 3e-4,
    "train.lr_scheduler_type": "cosine",
    "train.warmup_ratio": 0.03,
    "train.weight_decay": 0.001,
    "train.max_grad_norm": 0.3,
    "train.train_sampling_strategy": "group_by_length",
    "train.max_length": 2048,
    "train.save_steps": 20,
    "train.save_total_limit": 10,
    "train.logging_steps": 20,
    "train.completion_only_loss": False,
}
PER_MODEL = {
    "gpt2-large": {
        "train.lora.target_modules": ["c_attn", "c_fc"],
        "train.per_device_train_batch_size": 8,
        "train.num_train_epochs": 5,
    },
    "llama-3.2-1b": {
        "train.lora.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "train.per_device_train_batch_size": 4,
        "train.num_train_epochs": 2,
    },
}


@pytest.mark.parametrize("name", sorted(PER_MODEL))
def test_the_reference_experiment_to_the_letter(name):
    fields = dict(leaves(recipe.load(name).model_dump(mode="json")))
    expected = REFERENCE | PER_MODEL[name]
    assert {field: fields[field] for field in expected} == expected


@pytest.mark.parametrize(("name", "steps"), [("gpt2-large", 12_450), ("llama-3.2-1b", 9_960)])
def test_the_reference_experiments_number_of_steps(name, steps):
    train = recipe.load(name).train
    batches = -(-19_919 // train.per_device_train_batch_size)
    assert batches * train.num_train_epochs == steps


@pytest.mark.parametrize("name", sorted(PER_MODEL))
def test_the_fast_twin_takes_the_same_rows_and_steps(name):
    twin, reference = (
        dict(leaves(recipe.load(each).model_dump(mode="json"))) for each in (f"{name}-fast", name)
    )
    assert {field for field in twin if twin[field] != reference[field]} == {
        "model.quantization", "model.dtype", "train.lora.lora_dropout",
        "train.lora.target_modules", "train.optim", "train.train_sampling_strategy",
        "train.save_steps", "train.save_total_limit",
    }  # fmt: skip
    assert twin["train.packing"]
    assert twin["train.lora.lora_dropout"] == 0


def test_every_field_is_frozen():
    loaded = Recipe.model_validate(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        loaded.train.seed = 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            ["train.fsdp=true", "model.quantization=nf4"],
            (
                "recipe: train.fsdp divides weights that are not quantized: set model.quantization "
                "to none, or train.fsdp to false"
            ),
        ),
        (
            ["generate.engine=vllm", "generate.temperature=1"],
            (
                "recipe.generate: engine vllm draws otherwise than (seed, id) say: set temperature "
                "to 0, or engine to continuous"
            ),
        ),
    ],
)
def test_fields_that_do_not_go_together_are_named_without_all_the_others(changes, line):
    with pytest.raises(BadRecipeError) as raised:
        recipe.load("demo", changes)
    assert str(raised.value) == line


def test_an_object_can_be_set_as_a_whole():
    changed = recipe.load("demo", ["data.columns={question: q, answer: a}"])
    assert (changed.data.columns.question, changed.data.columns.answer) == ("q", "a")
