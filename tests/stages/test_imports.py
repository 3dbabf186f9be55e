"""What a stage's process imports: in a process of its own, as here all is imported already."""

import re
import subprocess
import sys

HEAVY = ("bitsandbytes", "torch._inductor.compile_fx", "boto3", "matplotlib", "sklearn", "scipy")
SCRIPT = f"""
import sys
from pathlib import Path
from qatune import log
from qatune.importing import import_stage
from qatune.store.memory import MemoryStore
from tests.support import tiny, training

def train(**model):
    store, recipe = MemoryStore(), training.recipe(folder, model, max_steps=1)
    stage.run(training.prepared(store, recipe))
    print("heavy:", *(name for name in {HEAVY} if name in sys.modules))

log.configure()
stage = import_stage("train")
folder = tiny.tiny_llama(Path(sys.argv[1]))
train()
train(quantization="nf4")
train()
"""


def test_bitsandbytes_is_imported_by_the_first_model_that_is_quantized(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "model")],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    plain, quantized, after = re.findall("^heavy:(.*)$", done.stdout, re.MULTILINE)
    assert plain == ""
    assert quantized.split()[0] == "bitsandbytes"
    assert after == quantized
