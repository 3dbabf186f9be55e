"""Several runs side by side, made up: what `report.several` gives to the page."""

from qatune.evaluation.metrics import Statistics
from qatune.report.comparison_page import render_comparison
from tests.support import made_report

MODELS = {
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B", 9_960, 4_539.2, 8.776, 0.6279, 3_407_872),
    "gpt2-large": ("openai-community/gpt2-large", 12_450, 7_373.4, 13.508, 0.7196, 11_796_480),
    "base-alone": ("meta-llama/Llama-3.2-1B", None, None, None, None, None),
}
VERDICTS = {
    "worse": "{other} is worse than {one}: bits per byte from 0.8110 to 0.9034, +0.0924 (95 % "
    "interval +0.0801 to +0.1043).",
    "no measurable difference": "No measurable difference between {one} and {other}: bits per byte "
    "from 0.8110 to 0.8120, +0.0010 (95 % interval \N{MINUS SIGN}0.0080 to +0.0100); from 0.0143 "
    "on it would have shown.",
}


def pair(one, other, outcome="worse"):
    measures = made_report.metrics(190)["measures"]
    leading = {
        "worse": (0.811, 0.9034, 0.0203),
        "no measurable difference": (0.811, 0.812, 0.0143),
    }[outcome]
    measures = {
        "bits_per_byte": made_report.measure(*leading, outcome, 190),
        **{key: found for key, found in measures.items() if key != "loss_per_token"},
    }
    sentence = VERDICTS[outcome].format(one=one, other=other)
    return {
        "one": one, "other": other, "measures": measures, "outcome": outcome, "sentence": sentence,
    }  # fmt: skip


def run(name):
    model, steps, seconds, rate, loss, parameters = MODELS[name]
    content = made_report.metrics(190) if steps else made_report.without_adapter(190)
    return {
        "name": name, "model": model, "quantization": "nf4", "rows": 190,
        "device": "NVIDIA A10G, 23 GiB", "samples_per_second": rate, "seconds": seconds,
        "steps": steps, "train_loss": loss, "heldout_loss": loss and loss + 0.05,
        "trainable_parameters": parameters, "verdict": content["verdict"],
        "measures": {
            key: {"base": each["base"], "adapter": each["adapter"]}
            for key, each in content["measures"].items()
        },
    }  # fmt: skip


def comparison(*pairs, notes=()):
    """Make the comparison of the runs of these pairs; of two runs where none is given."""
    pairs = pairs or (pair("llama-3.2-1b", "gpt2-large"),)
    names = dict.fromkeys(name for each in pairs for name in (each["one"], each["other"]))
    return {
        "runs": [run(name) for name in names], "shared_rows": 190, "held_out_sha256": "ab" * 32,
        "pairs": list(pairs), "statistics": Statistics(family=[]).model_dump(),
        "notes": list(notes),
    }  # fmt: skip


def of_three():
    llama, gpt, base = MODELS
    same = "no measurable difference"
    note = "base-alone has no adapter: its base model is compared"
    return comparison(pair(llama, gpt), pair(llama, base, same), pair(gpt, base), notes=[note])


def page(found=None):
    return render_comparison(found or comparison())
