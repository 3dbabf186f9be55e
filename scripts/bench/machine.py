"""What was measured on, and with which versions."""

import os
import platform
from importlib.metadata import version

from qatune.model import devices

_NAMES = (
    "qatune", "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "tokenizers",
    "pandas", "pyarrow",
)  # fmt: skip


def described() -> dict[str, str | int | float]:
    """CPU or GPU, its type for computing, cores, memory in GiB."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "device": devices.device_name(),
        "dtype": devices.native_dtype(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "busy_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _NAMES}}
