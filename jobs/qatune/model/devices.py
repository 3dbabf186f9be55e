"""What this machine computes with: device, its name, and the type it multiplies fastest."""

import ctypes
import gc
import platform
import resource
import sys
from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")
_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def device() -> str:
    """Return `cuda` where there is a usable GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """Model name of the GPU or CPU, as a manifest records it."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return _cpu_field("model name") or platform.processor() or platform.machine()


def native_dtype() -> str:
    """Return bfloat16 where the hardware multiplies it natively, else float32."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        flags = _cpu_field("flags") or _cpu_field("Features")
        native = bool(_BF16_FLAGS & set(flags.split()))
    return "bfloat16" if native else "float32"


def peak_memory_bytes() -> int:
    """Most memory held so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_memory_bytes() -> int:
    """Return the memory that this process may still take: what machine and cgroup leave."""
    free = psutil.virtual_memory().available
    limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(int(free), 0)


def free_memory() -> None:
    """Give back what nothing refers to any more: after a failed batch, before another model.

    A trained model lies in cycles of references, and glibc keeps freed memory for later: together
    they were three quarters of what the process held after training.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _cpu_field(name: str) -> str:
    if not _CPU_INFO.is_file():
        return ""
    for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
        field, _, value = line.partition(":")
        if field.strip() == name:
            return value.strip()
    return ""
