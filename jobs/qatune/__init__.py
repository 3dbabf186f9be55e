"""Fine-tune small language models on questions and answers, and measure whether it helped."""

import time

__version__ = "0.1.0"

BEGAN = time.monotonic()
"""When this process began, but for the interpreter's own start."""

STAGES = ("preprocess", "train", "generate", "evaluate")
"""In their order."""
