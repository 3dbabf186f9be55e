"""The benchmark's own arithmetic, and that each contestant does the same work."""

import json
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from tests.support.tiny import tiny_gpt2, tiny_llama
from transformers import AutoConfig, GPT2Config

from qatune.config import Model
from qatune.model.checks import check_target_modules, skeleton
from qatune.model.flops import layer_shapes
from qatune.model.loading import load_model

SCRIPTS = Path(__file__).parents[2] / "scripts"
QUESTIONS = ["question,answer"] + [f"What is {n}?,It is {n} and not {n + 1}." for n in range(40)]


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS / "bench"))


def prints(**figures):
    return ["-c", f"print('noise'); print({json.dumps(json.dumps(figures))})"]


def part(contestants):
    from harness import Part

    return Part("speed", "nothing", "rate", [], contestants)


def test_contestants_take_turns_and_the_ratio_is_of_a_round(capsys):
    from harness import Contestant, race, summary

    ours = Contestant("ours", prints(rate=6.0))
    theirs = Contestant("theirs", prints(rate=2.0), "ours")
    runs = race(part([ours, theirs]), rounds=3)
    said = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "speed 1/3 ours", "speed 1/3 theirs", "speed 2/3 theirs", "speed 2/3 ours",
        "speed 3/3 ours", "speed 3/3 theirs",
    ]  # fmt: skip
    runs["theirs"][0]["rate"] = 3.0
    found = summary(part([ours, theirs]), runs)["theirs"]
    assert (found["ratio_lowest"], found["ratio"], found["ratio_highest"]) == (2.0, 3.0, 3.0)
    assert (found["lowest"], found["rate"], found["highest"]) == (2.0, 2.0, 3.0)
    assert found["peak_mb"] > 1


def test_a_contestant_that_fails_ends_the_benchmark_with_what_it_said():
    from harness import Contestant, measured

    with pytest.raises(SystemExit, match="exit code 3\nthe model is missing"):
        measured(Contestant("broken", ["-c", "print('the model is missing'); exit(3)"]))


def test_the_matmul_peak_is_measured_with_the_shapes_of_the_model(tmp_path):
    import flops

    config = AutoConfig.from_pretrained(tiny_gpt2(tmp_path))
    shapes = layer_shapes(skeleton(config))
    assert flops.matmul_peak(shapes, tokens=8, dtype=torch.float32) > 0


@pytest.mark.parametrize("name", ["generation", "preprocess"])
def test_a_part_runs_and_makes_a_table(name, tmp_path, monkeypatch):
    import run

    model = tiny_gpt2(tmp_path / "gpt2", positions=1024)
    rows, table, results = (tmp_path / each for each in ("rows.csv", "bench.md", "bench.json"))
    rows.write_text("\n".join(QUESTIONS))
    options = {
        "model": model, "csv": rows, "json": results, "markdown": table, "rounds": 1,
        "training-rows": 8, "prompts": 3, "new-tokens": 3, "preprocess-rows": 200,
    }  # fmt: skip
    given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    monkeypatch.setattr(sys, "argv", ["run.py", name, *given, "--targets", "c_attn", "c_fc"])
    run.main()
    summary = json.loads(results.read_text())["parts"][name]["summary"]
    assert all(f"| {contestant} | " in table.read_text() for contestant in summary)
    for figures in summary.values():
        assert figures.get("same_answers", 1) == 1
        assert figures.get("rows", 202) == 202 or figures["rows"] == 200  # nulls are rows read


@pytest.mark.parametrize(
    ("name", "parameters"), [("llama-3.2-1b", 1_235_814_400), ("gpt2-large", 774_030_080)]
)
def test_shapes_are_those_of_the_models(name, parameters):
    import shapes

    shape = shapes.SHAPES[name]
    model = skeleton(shape.config(**shape.sizes))
    assert sum(each.numel() for each in model.parameters()) == parameters
    check_target_modules(shape.targets, model)


def test_a_shape_is_a_model_of_its_own_in_the_comparison(tmp_path, monkeypatch):
    import run
    import shapes
    from parts import Asked

    tiny = shapes.Shape(
        GPT2Config,
        {"vocab_size": 50257, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 1024},
        ("c_attn",),
    )
    monkeypatch.setitem(shapes.SHAPES, "tiny", tiny)
    real = tiny_gpt2(tmp_path / "gpt2", positions=1024)
    asked = Asked(real, tmp_path, tmp_path, tmp_path, 8, 3, 3, ["c_fc"])
    found = run.turns(None, asked, ["tiny"])
    assert [title for title, *_ in islice(found, 3)] == ["training", "generation", "preprocess"]
    title, part, of = next(found)
    assert (title, part, of.targets) == ("training, tiny", "training", ("c_attn",))
    loaded = load_model(of.model, Model(source=str(of.model)), print)
    assert loaded.model.config.n_embd == 8
    assert [title for title, *_ in found] == ["generation, tiny"]


def test_growth_is_of_a_row(tmp_path):
    import growth

    model = tiny_gpt2(tmp_path / "gpt2")
    few, more = growth.grown(model, 100), growth.grown(model, 400)
    assert (few["rows"], more["rows"]) == (100, 400)
    assert few["cpu_seconds"] > 0
    assert (
        growth.slope({"rows": 100, "seconds": 1}, {"rows": 1100, "seconds": 3}, "seconds") == 0.002
    )


def test_reads_and_writes_of_the_store_are_timed_and_leave_nothing(s3_store, monkeypatch, capsys):
    import store

    monkeypatch.setattr(
        sys, "argv", ["store.py", s3_store.uri, "--megabytes", "1", "--rounds", "2"]
    )
    store.main()
    table = [line.split("|") for line in capsys.readouterr().out.splitlines()[-6:]]
    assert [cells[1].split(":")[0].strip() for cells in table] == ["write"] * 3 + ["read"] * 3
    assert all(float(cells[2].split()[0]) > 0 for cells in table)
    assert not list(s3_store.keys(""))


def test_shards_are_timed_each_by_itself(tmp_path):
    import shards

    from qatune.stages import generate, preprocess  # noqa: F401 - imports are not to be timed

    taken = shards.seconds_of_shards(tiny_llama(tmp_path), rows=64, shards=4)
    assert len(taken) == 4
    assert all(seconds > 0 for seconds in taken)
