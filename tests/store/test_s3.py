"""What goes wrong with a bucket, against the real server."""

import random

import pytest

from qatune.errors import MissingInputError, NotAllowedError, UnavailableError, UsageError
from qatune.store import multipart, s3
from qatune.store.opening import open_store

MIB = 1024**2


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


@pytest.fixture
def large_file(tmp_path, monkeypatch):
    """A file that goes in three parts, the last one shorter; S3 takes none below 5 MiB."""
    monkeypatch.setattr(s3, "_IN_PARTS", 5 * MIB)
    monkeypatch.setattr(multipart, "PART_BYTES", 5 * MIB)
    path = tmp_path / "model.safetensors"
    path.write_bytes(random.Random(0).randbytes(11 * MIB))
    return path


def left_over(store):
    return store._client.list_multipart_uploads(Bucket=store._bucket).get("Uploads", [])


def test_a_large_file_arrives_in_parts_and_is_created_once(s3_store, large_file):
    assert s3_store.create("x", large_file)
    assert s3_store._client.head_object(**s3_store._at("x"))["ETag"].endswith('-3"')
    assert s3_store.read("x") == large_file.read_bytes()
    assert not s3_store.create("x", large_file)
    assert list(s3_store.keys("")) == ["x"]
    assert s3_store.notes == []
    assert left_over(s3_store) == []


def test_of_two_that_send_a_large_file_at_once_the_later_one_is_refused(s3_store, large_file):
    seen, stat = [], s3_store.stat
    s3_store.stat = seen.append  # both have looked before either was done
    assert [s3_store.create("x", large_file) for _ in range(2)] == [True, False]
    assert seen == ["x", "x"]
    assert stat("x").size == 11 * MIB
    assert left_over(s3_store) == []


def test_parts_are_as_many_as_s3_takes():
    terabyte = 1024**4
    assert multipart.part_bytes(6 * 1024**3) == multipart.PART_BYTES
    assert terabyte / multipart.part_bytes(terabyte) <= 10_000


def test_a_bucket_that_ignores_the_condition_for_parts_is_noted(s3_store, large_file, monkeypatch):
    send = multipart.upload
    monkeypatch.setattr(multipart, "upload", lambda *given: send(*given[:3], {}))
    assert s3_store.create("x", large_file)
    assert not s3_store.create("x", large_file)
    assert s3_store.notes == [s3._PARTS_FALLBACK]
