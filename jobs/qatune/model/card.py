"""The model card that goes with an adapter."""

import json
from collections.abc import Mapping
from typing import Any

from qatune.config import Recipe
from qatune.model.adapters import Base

_CARD = """---
library_name: peft
base_model: {source}
tags:
- lora
- qatune
---
# LoRA adapter for {source}

| | |
|---|---|
| base | `{source}`, revision {revision} |
| base precision in training | {precision} |
| rows trained on | {rows:,} of `{data}` |
| rows held out | {heldout_rows:,} |
| optimizer steps | {steps:,} |
| held-out loss per answer token, before | {before} |
| held-out loss per answer token, after | {after} |

## Use
```python
{imports}from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{quantizing}

base = AutoModelForCausalLM.from_pretrained(
    {place},{revision_argument}
    {precision_argument},
)
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```
Questions were put to the model as:

```
{template}
```

## Training
```json
{train}
```
"""


def model_card(recipe: Recipe, base: Base, counters: Mapping[str, Any]) -> str:
    """Describe an adapter. Holds nothing that differs between two trainings of one recipe."""
    return _CARD.format(
        source=base.source,
        revision=f"`{base.revision}`" if base.revision else "none",
        revision_argument=f"\n    revision={base.revision!r}," if base.revision else "",
        place=_place(base.source),
        imports="import os\n" if base.source.startswith("~") else "",
        quantizing="" if base.quantization == "none" else ", BitsAndBytesConfig",
        precision_argument=_precision(recipe, base),
        precision=base.precision,
        data=recipe.data.source,
        template=recipe.data.template,
        train=json.dumps(recipe.train.model_dump(mode="json"), indent=1),
        before=_loss(counters["heldout_loss_before"]),
        after=_loss(counters["heldout_loss_after"]),
        **{name: counters[name] for name in ("rows", "heldout_rows", "steps")},
    )


def _place(source: str) -> str:
    """Say in Python where the base is loaded from."""
    if source.startswith("~"):
        return f"os.path.expanduser({source!r})"
    if source.startswith("s3://"):
        return f'"path/to/a/copy/of/{source.removeprefix("s3://")}"'
    return repr(source)


def _precision(recipe: Recipe, base: Base) -> str:
    """Say in Python how the base was held in training: otherwise it gives other text."""
    if base.quantization == "none":
        return f'dtype="{base.dtype}"'
    if base.quantization == "int8":
        settings = "load_in_8bit=True"
    else:
        settings = (
            "\n        load_in_4bit=True,"
            '\n        bnb_4bit_quant_type="nf4",'
            f"\n        bnb_4bit_use_double_quant={recipe.model.double_quant},"
            f'\n        bnb_4bit_compute_dtype="{base.dtype}",\n    '
        )
    return f"quantization_config=BitsAndBytesConfig({settings})"


def _loss(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
