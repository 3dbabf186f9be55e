"""Answer prompts by `model.generate`, as the libraries' documentation writes it.

    python scripts/bench/comparators/hf_generation.py MODEL ADAPTER PROMPTS.jsonl [--batch 16]

PROMPTS.jsonl has `id` and `prompt` a row. Each prompt is answered twice, with the adapter attached
and with it switched off, as `qatune generate` does; a batch is padded on the left, in the order of
the file. Numbers below the smallest normal one become zero, as in the product. Prints one JSON
line: seconds without loading, tokens generated, answers a second, and both answers of each prompt.
"""

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def answers(model: Any, tokenizer: Any, prompts: list[str], new_tokens: int) -> list[list[int]]:
    """Return what the model adds to each prompt, up to its end mark."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    output = model.generate(
        **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    eos = tokenizer.eos_token_id
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    asked = parser.parse_args()
    torch.set_flush_denormal(True)
    rows = [json.loads(line) for line in asked.prompts.read_text(encoding="utf-8").splitlines()]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(asked.model, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    dtype = getattr(torch, asked.dtype)
    base = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype).to(device)
    model = PeftModel.from_pretrained(base, asked.adapter).eval()
    found: dict[str, list[str]] = {row["id"]: [] for row in rows}
    tokens = 0
    began = time.perf_counter()
    for without_adapter in (True, False):
        with model.disable_adapter() if without_adapter else nullcontext():
            for start in range(0, len(rows), asked.batch):
                batch = rows[start : start + asked.batch]
                texts = [row["prompt"] for row in batch]
                generated = answers(model, tokenizer, texts, asked.new_tokens)
                tokens += sum(map(len, generated))
                decoded = tokenizer.batch_decode(generated, skip_special_tokens=True)
                for row, text in zip(batch, decoded, strict=True):
                    found[row["id"]].append(text)
    seconds = time.perf_counter() - began
    figures = {
        "seconds": seconds,
        "tokens": tokens,
        "answers_per_second": 2 * len(rows) / seconds,
        "answers": found,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
