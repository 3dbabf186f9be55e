"""Train with each of training's gains switched on alone, with none, and with all of them.

    python scripts/bench/training_gains.py [--rounds 3] [--training-rows 64]

The options are those of run.py. Prints a table of tokens a second and CPU seconds. What stands in
for a gain is what the libraries do themselves: peft's LoRA layers, torch's Bernoulli masks, logits
computed twice by checkpointing, padded batches, weights dequantized at each use. Compiling, which
the product does not, counts with its warm-up.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

HERE = Path(__file__).parent
Figures = dict[str, Any]
GAINS = {
    "packing": "rows packed",
    "masks": "dropout's masks from random bits",
    "fused": "LoRA layers fused",
    "loss": "the loss's gradient with its logits",
    "nf4": "NF4 weights dequantized once",
}
VARIANTS = {
    "none": [],
    **{name: [name] for name in GAINS if name != "nf4"},
    "all": ["packing", "masks", "fused", "loss"],
    "all, and its layers compiled by torch": ["packing", "masks", "fused", "loss", "compiled"],
    "NF4: all but dequantized once": ["packing", "masks", "fused", "loss"],
    "NF4: all": list(GAINS),
}


def bernoulli(shape: Sequence[int], share: float) -> tuple[Tensor, float]:
    return torch.empty(*shape).bernoulli_(1 - share).bool(), 1 / (1 - share)


class CheckpointedNll:
    """Keeps no logits, and so computes them again for the gradient."""

    @staticmethod
    def apply(hidden: Tensor, wanted: Tensor, causal_lm: Any, *_: Tensor) -> Tensor:
        from qatune.model import loss

        def nll(chunk: Tensor, targets: Tensor) -> Tensor:
            scores = loss.logits(causal_lm, chunk)
            return torch.nn.functional.cross_entropy(scores, targets, reduction="sum")

        chunks = zip(hidden.split(512), wanted.split(512), strict=True)
        return torch.stack([checkpoint(nll, *each, use_reentrant=False) for each in chunks]).sum()


def without(gains: Sequence[str]) -> None:
    """Put what the libraries do in the place of the product's parts that are not in `gains`."""
    from qatune.model import devices, lora, loss, trainer

    if "fused" not in gains:
        trainer.fuse = lambda _: None
    if "masks" not in gains:
        trainer.draw_faster = lambda _: None
        lora.draw = bernoulli
    if "loss" not in gains:
        loss._ChunkedNll = CheckpointedNll  # noqa: SLF001 - what is compared
    if "nf4" not in gains:
        devices.available_memory_bytes = lambda: 0
    if "compiled" in gains:
        trainer.draw_faster = partial(compiled_after, trainer.draw_faster)


def compiled_after(finish: Callable[[Any], None], model: Any) -> None:
    """Compile layer by layer, which takes a fraction of the time that the whole model does."""
    finish(model)
    for layer in model.get_base_model().base_model.layers:
        layer.compile(dynamic=True)


def child(gains: Sequence[str], recipe: str) -> None:
    """Train with these gains only; print the figures as the last line."""
    without(gains)
    with tempfile.TemporaryDirectory(prefix="qatune-gains-") as store:
        print(json.dumps(trained(gains, recipe, store)))


def trained(gains: Sequence[str], recipe: str, store: str) -> Figures:
    from qatune import cli

    for stage in ("preprocess", "train"):
        with_packing = ["--set", f"train.packing={json.dumps('packing' in gains)}"]
        command = [stage, "--run", "gains", "--store", store, "--recipe", recipe, *with_packing]
        cli.cli(command, standalone_mode=False)
    manifest = json.loads((Path(store) / "runs/gains/train/manifest.json").read_text())
    counters = manifest["counters"]
    return {"tokens_per_second": counters["tokens_per_second"], "loss": counters["train_loss"]}


def main() -> None:
    import run
    from harness import Contestant, Part, race, summary
    from parts import recipe_of, training_input

    options = run.parsed()
    options.part = "training"
    with tempfile.TemporaryDirectory(prefix="qatune-gains-") as name:
        asked = run.asked_of(options, Path(name))
        plain, _, lengths = training_input(asked)
        nf4 = recipe_of(asked, asked.work / "training.csv", 1, "nf4")
        contestants = [
            Contestant(
                variant,
                [
                    __file__, "child", json.dumps(gains),
                    nf4 if variant.startswith("NF4") else plain,
                ],
                "none",
            )
            for variant, gains in VARIANTS.items()
        ]  # fmt: skip
        part = Part("training", "", "tokens_per_second", [], contestants)
        print(f"{len(lengths)} rows, {sum(lengths)} tokens")
        for variant, figures in summary(part, race(part, options.rounds)).items():
            print(
                f"{variant:38} {figures['tokens_per_second']:7.1f} tokens/s  "
                f"{1 / figures['ratio']:5.2f} x none  {figures['cpu_seconds']:6.1f} CPU s  "
                f"loss {figures['loss']:.4f}"
            )


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if sys.argv[1:2] == ["child"]:
        child(json.loads(sys.argv[2]), sys.argv[3])
    else:
        main()
