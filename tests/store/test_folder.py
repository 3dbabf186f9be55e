"""A folder on a disk that is full, read-only, or was left in the middle of a write."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from qatune.errors import MissingInputError, NotAllowedError, UnavailableError
from qatune.store.folder import TEMPORARY, FolderStore, explained


@contextmanager
def mounted(folder, size):
    """Mount a disk of this size; only root may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "qatune-tests", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root of a Linux machine can mount a disk")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("from_file", [False, True])
def test_a_full_disk(tmp_path, from_file):
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    with mounted(tmp_path / "disk", "1m") as disk:
        store = FolderStore(str(disk))
        store.create("small", b"kept")
        with pytest.raises(UnavailableError, match="full; free space"):
            store.create("a/big", tmp_path / "big" if from_file else bytes(2 << 20))
        assert list(store.keys("")) == ["small"]
        assert list(disk.rglob(f"{TEMPORARY}*")) == []
        assert store.create("other", b"there is room for this")


def test_a_read_only_disk(tmp_path):
    with mounted(tmp_path / "disk", "1m") as disk:
        store = FolderStore(str(disk))
        store.create("x", b"content")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for write in (
            lambda: store.create("y", b""),
            lambda: store.create("new/y", b""),
            lambda: store.replace("x", b""),
            lambda: store.delete("x"),
        ):
            with pytest.raises(NotAllowedError, match="give this user access"):
                write()
        assert store.read("x") == b"content"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, UnavailableError),
        (errno.EDQUOT, UnavailableError),
        (errno.EIO, UnavailableError),
        (errno.EROFS, NotAllowedError),
        (errno.EACCES, NotAllowedError),
        (errno.EPERM, NotAllowedError),
        (errno.ENOTDIR, MissingInputError),
    ],
)
def test_what_the_system_says(number, kind):
    found = explained(OSError(number, os.strerror(number), "/store/a"), "/store")
    assert type(found) is kind
    assert "/store" in str(found)
    assert "\n" not in str(found)


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MissingInputError, match="in the way"):
        FolderStore(str(tmp_path / "file")).create("x", b"")
    with pytest.raises(MissingInputError, match="in the way"):
        FolderStore(str(tmp_path)).create("file/x", b"")


_WRITE = """
import sys
from pathlib import Path
from qatune.store.folder import FolderStore
FolderStore(sys.argv[1]).create("a/x", Path(sys.argv[2]))
"""


def test_a_writer_killed_in_the_middle(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    store = FolderStore(str(tmp_path / "store"))
    process = subprocess.Popen([sys.executable, "-c", _WRITE, store.uri, str(tmp_path / "pipe")])
    with (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(bytes(3 << 20))
        pipe.flush()
        until = time.monotonic() + 20
        while not any(path.stat().st_size for path in tmp_path.glob(f"store/a/{TEMPORARY}*")):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(store.keys("")) == []
    assert store.stat("a/x") is None
    assert store.create("a/x", b"whole")
    assert list(store.keys("")) == ["a/x"]
    assert store.read("a/x") == b"whole"


def test_what_a_dead_writer_left_goes_after_a_day(tmp_path):
    old, new = (tmp_path / f"{TEMPORARY}{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    two_days_ago = time.time() - 48 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    FolderStore(str(tmp_path)).create("x", b"")
    assert not old.exists()
    assert new.exists()


def test_a_folder_goes_with_its_last_object_and_comes_back(tmp_path):
    store = FolderStore(str(tmp_path / "store"))
    for name in ("a/b/one", "a/two"):
        store.create(name, b"x")
    store.delete("a/b/one")
    assert not (tmp_path / "store/a/b").exists()
    store.delete("a/two")
    assert (tmp_path / "store").is_dir()
    assert not (tmp_path / "store/a").exists()
    assert store.create("a/b/one", b"y")


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_writer_whose_folder_another_takes_away_makes_it_again(tmp_path, monkeypatch, call):
    store, real, taken = FolderStore(str(tmp_path / "store")), getattr(Path, call), []

    def late(self, *arguments, **options):
        if TEMPORARY in self.name or self.name == "b":
            taken.append(self)
            if len(taken) == 1:
                shutil.rmtree(tmp_path / "store", ignore_errors=True)
                raise FileNotFoundError(errno.ENOENT, "taken away", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, call, late)
    assert store.create("a/b/one", b"x")
    assert len(taken) > 1
    assert store.read("a/b/one") == b"x"


def test_a_folder_that_vanishes_while_keys_are_listed(tmp_path):
    store, keys = FolderStore(str(tmp_path / "store")), {"a/b/one", "a/c/two"}
    for key in keys:
        store.create(key, b"x")
    listed = store.keys("a/")
    (other,) = keys - {next(listed)}
    store.delete(other)
    assert list(listed) == []
