"""A store in a bucket of S3, or of a server that speaks its protocol."""

import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
)

from qatune import log
from qatune.errors import (
    MissingInputError,
    NotAllowedError,
    QatuneError,
    UnavailableError,
    UsageError,
)
from qatune.store import multipart
from qatune.store.objects import ConflictError, NoSuchObjectError, Stat

_PROBE = ".qatune-probe-"
_ATTEMPTS = 5
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
"""So long a server may say nothing."""
_SLOWEST = 64 * 1024
"""Bytes a second: a body that comes slower is asked for again, on another connection."""
_AT_ONCE = 0.001
_ALLOWED_SKEW_SECONDS = 15 * 60
"""What S3 allows between the clocks of server and client."""
_IN_PARTS = 64 * 1024**2
"""Larger files are sent in parts; S3 takes at most 5 GiB in one request."""
_ABSENT = {"IfNoneMatch": "*"}
_AMAZON = re.compile(r"\.(amazonaws\.(com|com\.cn|eu)|api\.aws)$")
_FALLBACK = (
    "the bucket ignores If-None-Match: objects are created by looking first, "
    "so two writers of one object at the same moment are not told apart"
)
_PARTS_FALLBACK = (
    "the bucket ignores If-None-Match for files sent in parts: they are created by looking first, "
    "so two writers of one such file at the same moment are not told apart"
)
_DENIED = {"403", "401", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_DENIED |= {"ExpiredToken", "InvalidToken", "Forbidden", "Unauthorized"}


class S3Store:
    def __init__(self, uri: str) -> None:
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise UsageError(f"{uri}: no bucket; write s3://bucket/prefix")
        self.uri = uri.rstrip("/")
        self.notes: list[str] = []
        self._prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        self._conditional: bool | None = None
        self._conditional_parts: bool | None = None
        self._bucket_seen = False
        self._probing = threading.Lock()
        with self._plain_errors():
            self._client = _client()

    def stat(self, key: str) -> Stat | None:
        with self._plain_errors(key):
            try:
                found = self._client.head_object(**self._at(key))
            except ClientError as error:
                if _status(error) != HTTPStatus.NOT_FOUND:
                    raise
                self._check_bucket()
                return None
            return Stat(found["ContentLength"], found["ETag"])

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> bytes:
        wanted: dict[str, str] = {} if etag is None else {"IfMatch": etag}
        if start or length:
            wanted["Range"] = f"bytes={start}-{start + length - 1 if length else ''}"
        with self._plain_errors(key):
            try:
                data = self._body(key, wanted)
            except ClientError as error:
                if _status(error) == HTTPStatus.PRECONDITION_FAILED:
                    raise ConflictError(
                        f"{self.uri}/{key}: changed while it was read; run again"
                    ) from error
                if _status(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return b""
                raise
        return b"" if length == 0 else data

    def _body(self, key: str, wanted: dict[str, str]) -> bytes:
        """Read a whole answer; one that was cut short is asked for again."""
        attempt = 0
        while True:
            answer = self._client.get_object(**self._at(key), **wanted)  # has tries of its own
            try:
                data = _whole(answer)
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                attempt += 1
                if attempt == _ATTEMPTS:
                    raise
                _pause(attempt)
            else:
                return data

    def create(self, key: str, source: bytes | Path) -> bool:
        with self._plain_errors(key):
            honoured = self._honours_conditions()
            if isinstance(source, Path) and source.stat().st_size > _IN_PARTS:
                honoured = honoured and self._honours_conditions_of_parts()
                if self.stat(key) is not None:  # before gigabytes are sent in vain
                    return False
            elif not honoured and self.stat(key) is not None:
                return False
            return self._put(key, source, **(_ABSENT if honoured else {}))

    def replace(self, key: str, data: bytes) -> None:
        with self._plain_errors(key):
            self._put(key, data)

    def keys(self, prefix: str) -> Iterator[str]:
        with self._plain_errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for found in page.get("Contents", []):
                    key = found["Key"].removeprefix(self._prefix)
                    if key and not key.endswith("/") and _PROBE not in key:
                        yield key

    def delete(self, key: str) -> None:
        with self._plain_errors(key):
            self._client.delete_object(**self._at(key))

    def _put(self, key: str, source: bytes | Path, **condition: str) -> bool:
        return self._sent(lambda: self._put_once(key, source, condition), condition)

    def _sent(self, send: Callable[[], None], condition: Mapping[str, str]) -> bool:
        """Send; return False where the condition does not hold."""
        attempt = 0
        while True:
            try:
                send()
            except ClientError as error:
                if condition and _status(error) == HTTPStatus.PRECONDITION_FAILED:
                    return False
                # Another conditional write of this name is under way.
                busy = condition and _status(error) == HTTPStatus.CONFLICT
                attempt += 1
                if not busy or attempt == _ATTEMPTS:
                    raise
                _pause(attempt)
            else:
                return True

    def _put_once(self, key: str, source: bytes | Path, condition: dict[str, str]) -> None:
        if isinstance(source, bytes):
            self._client.put_object(**self._at(key), Body=source, **condition)
            return
        if source.stat().st_size > _IN_PARTS:
            multipart.upload(self._client, self._at(key), source, condition)
            return
        with source.open("rb") as file:
            self._client.put_object(**self._at(key), Body=file, **condition)

    def _honours_conditions(self) -> bool:
        """Try once whether the server refuses to create what is there."""
        with self._probing:
            if self._conditional is None:
                self._check_bucket()  # some servers would make it, also where its name is a typo
                self._conditional = self._refused_again(self._put_empty)
                self._note_unless(self._conditional, _FALLBACK)
        return self._conditional

    def _honours_conditions_of_parts(self) -> bool:
        """Try the same once for a file sent in parts: servers learned it later, if at all."""
        with self._probing:
            if self._conditional_parts is None:
                self._conditional_parts = self._refused_again(self._put_empty_in_parts)
                self._note_unless(self._conditional_parts, _PARTS_FALLBACK)
        return self._conditional_parts

    def _note_unless(self, honoured: bool, fallback: str) -> None:
        if not honoured:
            self.notes.append(fallback)
            log.get().warning(fallback, store=self.uri)

    def _put_empty(self, key: str) -> bool:
        return self._put(key, b"", **_ABSENT)

    def _put_empty_in_parts(self, key: str) -> bool:
        return self._sent(
            lambda: multipart.upload(self._client, self._at(key), Path(os.devnull), _ABSENT),
            _ABSENT,
        )

    def _refused_again(self, put: Callable[[str], bool]) -> bool:
        """Create a probe twice; tell whether the second try was refused."""
        key = f"{_PROBE}{uuid.uuid4().hex}"
        try:
            put(key)
            return not put(key)
        except ClientError as error:
            if _status(error) in {400, 501}:
                return False
            raise
        finally:
            # Who may not delete leaves an empty object that listings hide.
            with suppress(ClientError, BotoCoreError):
                self._client.delete_object(**self._at(key))

    def _check_bucket(self) -> None:
        """Tell a missing bucket from a missing object: a HEAD answers 404 to both."""
        if self._bucket_seen:
            return
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if _status(error) == HTTPStatus.NOT_FOUND:
                raise self._no_bucket() from error
        self._bucket_seen = True

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    @contextmanager
    def _plain_errors(self, key: str = "") -> Iterator[None]:
        where = f"{self.uri}/{key}" if key else self.uri
        try:
            yield
        except ClientError as error:
            raise self._explained(error, where) from error
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
            raise NotAllowedError(f"{where}: no credentials; {_credentials_help()}") from error
        except BotoCoreError as error:
            reason = " ".join(str(error).split())
            raise UnavailableError(f"{where}: {reason}; run the same command again") from error

    def _explained(self, error: ClientError, where: str) -> QatuneError:
        code, status = error.response["Error"].get("Code", ""), _status(error)
        if _denied(code, status) and _skewed(error):
            return UnavailableError(
                f"{where}: this machine's clock and the server's differ by more than it allows; "
                "set them, and run the same command again"
            )
        if code == "NoSuchBucket":
            return self._no_bucket()
        if _denied(code, status):
            return NotAllowedError(f"{where}: refused ({code}); {_credentials_help()}")
        if status == HTTPStatus.NOT_FOUND:
            return NoSuchObjectError(f"{where}: no such object")
        return UnavailableError(
            f"{where}: the server answered {code or status} after retries; "
            "run the same command again"
        )

    def _no_bucket(self) -> MissingInputError:
        return MissingInputError(
            f"s3://{self._bucket}: no such bucket; create it, or correct the name"
        )


def _client() -> Any:
    """Connect as the environment and the profile say; no request is made yet."""
    _check_keys()
    session = boto3.Session()
    # boto3 itself looks at AWS_DEFAULT_REGION alone, pods are given AWS_REGION.
    region = os.environ.get("AWS_REGION") or session.region_name
    client = session.client("s3", config=Config(**_settings()), region_name=region)
    if _AMAZON.search(urlsplit(client.meta.endpoint_url).hostname or ""):
        return client
    # Other servers than Amazon's know neither the checksum trailers nor bucket host names.
    compatible = _settings() | {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": "path"},
    }
    return session.client("s3", config=Config(**compatible), region_name=region or "us-east-1")


def _check_keys() -> None:
    """Refuse what could never be sent as a header, before a library writes it into an error."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        if not os.environ.get(name, "").isprintable() or " " in os.environ.get(name, ""):
            raise NotAllowedError(
                f"{name}: holds a space or a line break; was one written at its end?"
            )


def _settings() -> dict[str, Any]:
    retries: dict[str, Any] = {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}
    if not os.environ.get("AWS_MAX_ATTEMPTS"):
        retries["total_max_attempts"] = _ATTEMPTS
    return {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _ANSWER_SECONDS,
        "max_pool_connections": 32,
        "retries": retries,
    }


def _whole(answer: dict[str, Any]) -> bytes:
    """Read a body; raise ReadTimeoutError where it comes too slowly.

    The timeout of a socket begins anew with each byte, so that it never ends a trickle.
    """
    body = answer["Body"]

    def give_up() -> None:
        with suppress(AttributeError):  # it was read meanwhile
            body.set_socket_timeout(_AT_ONCE)

    timer = threading.Timer(_ANSWER_SECONDS + answer["ContentLength"] / _SLOWEST, give_up)
    timer.daemon = True
    timer.start()
    try:
        data: bytes = body.read()
    finally:
        timer.cancel()
    return data


def _denied(code: str, status: int) -> bool:
    return code in _DENIED or status in {401, 403}


def _skewed(error: ClientError) -> bool:
    """Whether the server's clock says why it refuses; its answer to a HEAD cannot."""
    date = error.response["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return False
    return abs(theirs - time.time()) > _ALLOWED_SKEW_SECONDS


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, min(5.0, 0.05 * 2**attempt)))


def _credentials_help() -> str:
    return (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, or the pod's identity), "
        "and AWS_ENDPOINT_URL where the server is not Amazon's; in the chart: store.secret and "
        "store.endpoint"
    )
