"""What the verdict is worth, by real training: a good adapter is better, a broken one worse."""

import csv
import json
import random
import shutil

import pytest
import yaml
from tests.support.qatune_command import qatune
from tests.support.tiny import tiny_llama

from qatune.config import Data
from qatune.store.opening import open_store

TEMPLATE = Data.model_fields["template"].default
FRUITS = {"a": "apples are sweet", "b": "bread is soft", "c": "corn is dry", "d": "dates are old"}


def rows():
    """Questions whose answer hangs on one letter of theirs."""
    return [(f"What of {name}{number}?", FRUITS[name]) for number in range(40) for name in FRUITS]


def shuffled():
    """The same questions, each with the answer of another one."""
    questions, answers = zip(*rows(), strict=True)
    return list(zip(questions, random.Random(5).sample(answers, len(answers)), strict=True))


class Lab:
    def __init__(self, folder):
        self.folder = folder
        self.store = open_store(str(folder / "store"))

    def run(self, name, model, pairs, **generate):
        """Train on these rows, or take the adapter that is given; return metrics.json."""
        source = self.folder / f"{name}.csv"
        with source.open("w", newline="") as file:
            csv.writer(file).writerows([("question", "answer"), *pairs])
        fields = {
            "model": {"source": str(model), "dtype": "float32"},
            "data": {"source": str(source), "drop_duplicates": False, "split": {"test_size": 32}},
            "train": {"learning_rate": 5e-3, "max_steps": 40, "eval_steps": 40},
            "generate": {"max_new_tokens": 24, **generate},
        }
        recipe = self.folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump({"recipe": fields}))
        done = qatune("run", recipe, "--run", name, "--store", self.store.uri)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(self.store.read(f"runs/{name}/evaluate/metrics.json"))

    def adapter(self, name):
        return str(self.folder / "store" / "runs" / name / "train" / "adapter")


def base(folder, pairs):
    """Make a model that has learned these pairs with all of its weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_llama(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimizer, made = torch.optim.AdamW(model.parameters(), lr=3e-3), random.Random(0)
    for _ in range(120):
        texts = [TEMPLATE.format(question=q, answer=a) for q, a in made.sample(pairs, 16)]
        rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
        longest = max(map(len, rows))
        ids, labels = (
            torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
            for filler in (tokenizer.eos_token_id, -100)
        )
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def ignorant(lab):
    """A model that knows what answers look like, and not which one is right."""
    return base(lab.folder / "ignorant", shuffled())


@pytest.fixture(scope="module")
def good(lab, ignorant):
    return lab.run("good", ignorant, rows())


def test_an_adapter_that_has_learned_is_better(good):
    assert good["verdict"]["outcome"] == "better"
    assert good["measures"]["loss_per_token"]["high"] < 0
    assert good["measures"]["exact_match"]["verdict"] == "better"
    assert good["warnings"] == []


def test_an_adapter_of_shuffled_answers_is_worse(lab):
    model = base(lab.folder / "knowing", rows())
    lab.run("shuffled", model, shuffled())
    metrics = lab.run("broken", model, rows(), adapter=lab.adapter("shuffled"))
    assert metrics["verdict"]["outcome"] == "worse"
    assert metrics["verdict"]["sentence"].startswith("Worse: loss per token from 0.")
    assert metrics["measures"]["loss_per_token"]["low"] > 0
    assert metrics["measures"]["exact_match"]["verdict"] == "worse"


def test_an_adapter_that_does_nothing_is_no_different(lab, ignorant, good):
    from safetensors.torch import load_file, save_file

    folder = lab.folder / "nothing"
    shutil.copytree(lab.adapter("good"), folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: each * ("lora_A" in name) for name, each in weights.items()},
        folder / "adapter_model.safetensors",
    )
    metrics = lab.run("nothing", ignorant, rows(), adapter=str(folder))
    assert metrics["verdict"]["outcome"] == "no measurable difference"
    assert any("it changes nothing that is said" in each for each in metrics["warnings"])
