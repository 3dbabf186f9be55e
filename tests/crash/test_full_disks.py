"""A disk that is full, of the store or for temporary files: said in one line, and gone on from."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tests.support import crashing
from tests.support.crashing import DONE

from qatune import STAGES, scratch
from qatune.errors import UnavailableError
from qatune.store.opening import open_store

NEED_ROOM = ("preprocess", "train", "generate")
"""Stages with temporary files: evaluate has none."""
KIB = 1024
FULL = r"the disk is full; make room or set TMPDIR"


@contextmanager
def disk(folder):
    """A file system in memory; yield what gives it another size."""
    folder.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(size, check=False, capture_output=True).returncode:
        pytest.skip("who is not root cannot mount a small disk")
    try:
        yield lambda kib: subprocess.run(
            ["mount", "-o", f"remount,size={kib}k", str(folder)], check=True, capture_output=True
        )
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def ended(crashes, place, start, full):
    """How one more start ended: done, or in a line that says what is full."""
    end = crashes.once(place, start, None)
    last = crashes.said(place).splitlines()[-1]
    assert end == DONE or (end == UnavailableError.exit_code and full in last), crashes.said(place)
    return end


@pytest.mark.parametrize("stage", NEED_ROOM)
def test_no_room_for_temporary_files(runs, tmp_path, stage):
    crashes = runs.crashes(stage)
    wanted, _ = crashes.alone()
    place, ends = crashes.place(), []
    with disk(tmp_path / "small") as resize:
        for kib in (4, 16, 96, 256, 8192):
            resize(kib)
            # The imports have asked for the folder already.
            start = replace(
                crashes.starts[0],
                patches=crashing.EVEN | {"tempfile:tempdir": str(tmp_path / "small")},
            )
            ends.append(ended(crashes, place, start, ": the disk is full; make room or set TMPDIR"))
    assert ends[0] == UnavailableError.exit_code
    assert ends[-1] == DONE
    crashes.until_done(place, ends)
    crashes.judge(place, ends, "a full disk", wanted)


WRITERS = {
    "safetensors": lambda path: save_file({"weights": torch.zeros(KIB, KIB)}, path),
    "torch": lambda path: torch.save({"weights": torch.zeros(KIB, KIB)}, path),
    "python": lambda path: path.write_bytes(bytes(4 * KIB * KIB)),
}


@pytest.mark.parametrize("writer", sorted(WRITERS))
@pytest.mark.parametrize("removed", [False, True])
def test_every_library_s_word_for_a_full_disk_is_understood(tmp_path, writer, removed):
    """Also where what it had written is gone again, so that the disk is full no more."""
    with disk(tmp_path / "small") as resize:
        resize(3 * KIB)
        path = tmp_path / "small" / "weights"

        def write():
            try:
                WRITERS[writer](path)
            finally:
                if removed:
                    path.unlink(missing_ok=True)

        with pytest.raises(UnavailableError, match=FULL), scratch.watched(path.parent):
            write()


@pytest.mark.parametrize("stage", STAGES)
def test_no_room_in_the_store(runs, tmp_path, stage):
    crashes = runs.crashes(stage)
    wanted, _ = crashes.alone()
    place, ends = crashes.place(), []
    full = "is full; free space and run the same command again"
    with disk(tmp_path / "small") as resize:
        resize(8192)
        shutil.copytree(place / "store", tmp_path / "small" / "store")
        used = sum(path.stat().st_blocks for path in (tmp_path / "small").rglob("*")) // 2
        starts = [
            replace(start, store=str(tmp_path / "small" / "store"), patches=crashing.IMPATIENT)
            for start in crashes.starts
        ]
        for kib in (8, 120, 240, 8192):
            resize(used + kib)
            ends.extend([ended(crashes, place, start, full) for start in starts])
        assert ends[0] == UnavailableError.exit_code
        assert ends[-1] == DONE
        crashes.judge(place, ends, "a full disk", wanted, open_store(starts[0].store))
