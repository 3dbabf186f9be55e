"""Compare reads and writes of a large object with boto3's own transfers and one plain request.

    python scripts/bench/store.py s3://BUCKET/PREFIX [--megabytes 512] [--rounds 3]

Takes turns, and prints megabytes a second: median, lowest and highest. Files end in the page cache
or on the disk as the system likes, for all of them alike. What it makes in the bucket it deletes.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3

from qatune.store.objects import CHUNK_BYTES
from qatune.store.ranges import download
from qatune.store.s3 import S3Store

Ways = dict[str, Callable[[], None]]


def ways(store: S3Store, client: Any, file: Path, folder: Path) -> Ways:
    """Return what is measured: writes of `file`, each to a new object, and reads of its own."""
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")

    def at(name: str) -> str:
        return f"{prefix}/{name}".lstrip("/")

    def new() -> str:
        return f"{file.name}-{uuid.uuid4().hex}"

    def create() -> None:
        store.create(new(), file)

    def upload() -> None:
        client.upload_file(str(file), bucket, at(new()))

    def put() -> None:
        with file.open("rb") as opened:
            client.put_object(Bucket=bucket, Key=at(new()), Body=opened)

    def get() -> None:
        answer = client.get_object(Bucket=bucket, Key=at(file.name))
        with (folder / "get").open("wb") as target:
            shutil.copyfileobj(answer["Body"], target, CHUNK_BYTES)

    def ranges() -> None:
        found = store.stat(file.name)
        assert found
        download(store, {"file": (file.name, found)}, folder / "ranges", "bench")
        shutil.rmtree(folder / "ranges")

    def transferred() -> None:
        client.download_file(bucket, at(file.name), str(folder / "transferred"))

    return {
        "write: qatune": create,
        "write: boto3 upload_file": upload,
        "write: one request": put,
        "read: qatune": ranges,
        "read: boto3 download_file": transferred,
        "read: one request": get,
    }


def rates(ways: Ways, megabytes: int, rounds: int) -> dict[str, list[float]]:
    """Return megabytes a second of each way, a figure a round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            began = time.perf_counter()
            ways[name]()
            found[name].append(megabytes / (time.perf_counter() - began))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("where", metavar="s3://BUCKET/PREFIX")
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    store, client = S3Store(asked.where), boto3.client("s3")
    with tempfile.TemporaryDirectory(prefix="qatune-bench-") as name:
        file = Path(name) / f"file-{uuid.uuid4().hex}"
        file.write_bytes(os.urandom(1 << 20) * asked.megabytes)
        store.create(file.name, file)
        try:
            measured = rates(ways(store, client, file, Path(name)), asked.megabytes, asked.rounds)
        finally:
            for key in list(store.keys(file.name)):
                store.delete(key)
    print("| | MB/s |\n| --- | --- |")
    for way, each in measured.items():
        print(f"| {way} | {statistics.median(each):.0f} ({min(each):.0f} to {max(each):.0f}) |")


if __name__ == "__main__":
    main()
