import platform
import resource
from pathlib import Path

import pytest
import torch

from qatune.model import devices

STATM = Path("/proc/self/statm")


def resident_mb() -> float:
    return int(STATM.read_text().split()[1]) * resource.getpagesize() / 1e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory so")
def test_free_memory_gives_back_what_lies_in_cycles_and_between_what_is_still_used():
    class Model:
        def __init__(self) -> None:
            self.weights = [torch.ones(16 * 1024) for _ in range(4000)]
            self.itself = self

    model = Model()
    last = model.weights[-1]  # it holds the top of the heap
    before = resident_mb()
    del model
    devices.free_memory()
    assert before - resident_mb() > 200
    assert last.sum() == 16 * 1024


def test_memory_that_a_cgroup_leaves(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    assert devices.available_memory_bytes() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.available_memory_bytes() > 2**20
