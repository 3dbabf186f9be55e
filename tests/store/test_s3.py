"""What goes wrong with a bucket, against the real server."""

import pytest

from qatune.errors import MissingInputError, NotAllowedError, UnavailableError, UsageError
from qatune.store.opening import open_store


def test_wrong_credentials(s3_store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(NotAllowedError, match="AWS_ACCESS_KEY_ID") as caught:
        open_store(s3_store.uri).create("x", b"")
    assert "wrong-secret" not in str(caught.value)


def test_an_endpoint_that_does_not_answer(s3_environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UnavailableError, match="run the same command again"):
        open_store("s3://bucket/p").stat("x")


def test_no_bucket_in_the_uri():
    with pytest.raises(UsageError, match="no bucket"):
        open_store("s3://")


def test_names_that_leave_the_folder(tmp_path):
    for key in ("../x", "/etc/x", "a/../../x", ""):
        with pytest.raises(MissingInputError):
            open_store(str(tmp_path)).create(key, b"")


def test_a_file_that_is_too_large_for_one_request_is_named_before_it_is_sent(s3_store, tmp_path):
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as file:
        file.truncate(5 * 1024**3 + 1)
    with pytest.raises(MissingInputError, match=r"model\.safetensors has 5,368,709,121 bytes"):
        s3_store.create("x", weights)
    assert s3_store.stat("x") is None
