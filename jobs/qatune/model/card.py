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
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({source!r}{revision_argument})
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
        revision_argument=f", revision={base.revision!r}" if base.revision else "",
        precision=base.precision,
        data=recipe.data.source,
        template=recipe.data.template,
        train=json.dumps(recipe.train.model_dump(mode="json"), indent=1),
        before=_loss(counters["heldout_loss_before"]),
        after=_loss(counters["heldout_loss_after"]),
        **{name: counters[name] for name in ("rows", "heldout_rows", "steps")},
    )


def _loss(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
