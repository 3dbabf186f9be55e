"""Train a LoRA adapter with TRL as its documentation writes it: the reference recipe, or packed.

    python scripts/bench/comparators/trl_training.py MODEL TEXTS.jsonl [--packing] [--nf4]
        [--no-checkpointing]

TEXTS.jsonl has a field `text` a row; the loss is over all of it. Padded batches hold 8 rows of like
length; packs hold 1,024 tokens, one a step. Prints one JSON line: seconds of the training loop
without start-up, tokens without padding, and the mean loss per step.

Numbers below the smallest normal one become zero, as in the product: docs/benchmarks.md has what a
step takes otherwise, and nothing else would be compared.
"""

import argparse
import json
import tempfile
import time

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

SHARED = {
    "num_train_epochs": 1,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "weight_decay": 0.001,
    "max_grad_norm": 0.3,
    "optim": "adamw_torch",
    "seed": 42,
    "max_length": 1024,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


class Loop(TrainerCallback):
    """Times the training loop alone."""

    seconds = 0.0

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *_: object, **__: object) -> None:
        self.seconds = time.perf_counter() - self.began


def settings(asked: argparse.Namespace, output: str) -> SFTConfig:
    batches = (
        {"packing": True, "per_device_train_batch_size": 1}
        if asked.packing
        else {"per_device_train_batch_size": 8, "train_sampling_strategy": "group_by_length"}
    )
    return SFTConfig(
        output_dir=output,
        bf16=asked.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=asked.checkpointing,
        **SHARED,
        **batches,
    )


def load(asked: argparse.Namespace) -> AutoModelForCausalLM:
    if not asked.nf4:
        return AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    dtype = getattr(torch, asked.dtype)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype, quantization_config=nf4)


def trained(asked: argparse.Namespace, output: str) -> dict[str, float]:
    loop = Loop()
    trainer = SFTTrainer(
        model=load(asked),
        args=settings(asked, output),
        train_dataset=load_dataset("json", data_files=asked.texts, split="train", cache_dir=output),
        processing_class=AutoTokenizer.from_pretrained(asked.model),
        peft_config=LoraConfig(
            r=16,
            lora_alpha=32,
            lora_dropout=0.2,
            bias="none",
            task_type="CAUSAL_LM",
            target_modules=asked.targets,
        ),
        callbacks=[loop],
    )
    tokens = sum(map(len, trainer.train_dataset["input_ids"]))
    result = trainer.train()
    return {
        "seconds": loop.seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / loop.seconds,
        "steps": result.global_step,
        "loss": result.training_loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("--targets", nargs="+", default=["q_proj", "k_proj", "v_proj", "o_proj"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--nf4", action="store_true")
    parser.add_argument("--no-checkpointing", dest="checkpointing", action="store_false")
    asked = parser.parse_args()
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as output:
        print(json.dumps(trained(asked, output)))


if __name__ == "__main__":
    main()
