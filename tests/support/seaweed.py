"""A real S3 server, authenticated, for the tests' own use."""

import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "tests-access", "tests-secret"
BUCKET = "qatune-tests"


@dataclass
class Seaweed:
    endpoint: str
    command: list[str]
    folder: Path
    process: subprocess.Popen | None = None

    def start(self):
        """Start it, again over what it holds; return when it takes a write."""
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.folder)
        _await(self.process, self.endpoint, self.folder / "weed.log")

    def kill(self):
        # At the end its data is thrown away, and an orderly end takes it ten seconds.
        self.process.kill()
        self.process.wait()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def binary() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def running(weed: str, folder: Path):
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    data = folder / "data"
    data.mkdir()
    ports = _free_ports(8)
    names = [f"{part}.port{kind}" for part in PARTS for kind in ("", ".grpc")]
    flags = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    command = [
        weed, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
        "-volume.max=20", "-master.volumeSizeLimitMB=64", f"-s3.config={config}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", *flags,
    ]  # fmt: skip
    endpoint = f"http://127.0.0.1:{ports[names.index('s3.port')]}"
    server = Seaweed(endpoint, command, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


PARTS = ("master", "volume", "filer", "s3")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _await(process, endpoint: str, log: Path) -> None:
    """Wait until a bucket can be made and written to."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY, region_name="us-east-1",
    )  # fmt: skip
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            # A bucket made by a try whose write failed is there already.
            with suppress(client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"x")
        except (BotoCoreError, ClientError):
            time.sleep(0.3)
        else:
            return
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-2000:]}")
