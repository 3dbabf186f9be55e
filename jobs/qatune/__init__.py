"""Fine-tune small language models on questions and answers, and measure whether it helped."""

__version__ = "0.1.0"

STAGES = ("preprocess", "train", "generate", "evaluate")
"""In their order."""
