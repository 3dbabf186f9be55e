"""Files that are sent in parts, several at a time: large ones, and those beyond S3's 5 GiB."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

PART_BYTES = 16 * 1024 * 1024
_MOST_PARTS = 10_000
_STREAMS = 4


def part_bytes(size: int) -> int:
    """Return how large the parts of a file of `size` bytes are: S3 takes at most 10,000."""
    return max(PART_BYTES, math.ceil(size / _MOST_PARTS))


def upload(client: Any, at: Mapping[str, str], file: Path, condition: Mapping[str, str]) -> None:
    """Send a file in parts and put them together under `at`, which the condition may refuse.

    Raises botocore's errors. The parts are taken away again then; a process that is killed leaves
    them to the bucket's rule for incomplete uploads.
    """
    upload_id = client.create_multipart_upload(**at)["UploadId"]
    place = {**at, "UploadId": upload_id}
    try:
        parts = _send_parts(client, place, file)
        client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}, **condition)
    except BaseException:
        with suppress(ClientError, BotoCoreError):
            client.abort_multipart_upload(**place)
        raise


def _send_parts(client: Any, place: Mapping[str, str], file: Path) -> list[dict[str, Any]]:
    size = file.stat().st_size
    length = part_bytes(size)

    def send(start: int) -> dict[str, Any]:
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(length)
        number = start // length + 1
        sent = client.upload_part(**place, PartNumber=number, Body=data)
        return {"PartNumber": number, "ETag": sent["ETag"]}

    with ThreadPoolExecutor(_STREAMS) as pool:
        try:
            return list(pool.map(send, range(0, max(size, 1), length)))
        finally:
            pool.shutdown(cancel_futures=True)
