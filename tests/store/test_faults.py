"""A bucket that misbehaves: every answer that a client must not take as it is."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from tests.support import faulty_s3
from tests.support.faulty_s3 import Fault

from qatune.errors import MissingInputError, NotAllowedError, UnavailableError
from qatune.store import s3
from qatune.store.objects import CHUNK_BYTES, ConflictError, create_once
from qatune.store.opening import open_store
from qatune.store.sources import data_files, model_folder

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The server, and an environment that names nothing else."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with faulty_s3.running() as server:
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        yield server


@pytest.fixture
def store(server):
    return open_store("s3://bucket")


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("from_file", [False, True])
def test_a_stumble_is_passed_over(server, store, tmp_path, status, from_file):
    (tmp_path / "file").write_bytes(b"content")
    server.faults += [Fault(method, status, times=2) for method in ("PUT", "HEAD", "GET", "DELETE")]
    ref = create_once(store, "x", tmp_path / "file" if from_file else b"content")
    assert store.stat("x").size == ref.size
    assert store.read("x") == b"content"
    assert list(store.keys("")) == ["x"]
    store.delete("x")
    assert server.objects == {}
    assert not any(fault.times for fault in server.faults)


def test_a_server_that_stays_down(server, store):
    server.faults.append(Fault("GET", 503, "ServiceUnavailable", times=99))
    with pytest.raises(UnavailableError, match="ServiceUnavailable after retries"):
        store.read("x")
    assert server.count("GET", "x") == 5
    server.objects["y"] = b"content"
    server.faults = [Fault("GET", keep=3, times=99)]
    with pytest.raises(UnavailableError, match="run the same command again"):
        store.read("y")
    assert server.count("GET", "y") == 5


@pytest.mark.parametrize("keep", [0, 3])
def test_a_body_cut_short_is_read_again(server, store, keep):
    server.objects["x"] = b"0123456789"
    server.faults.append(Fault("GET", keep=keep, times=2))
    assert store.read("x", 2, 6) == b"234567"
    assert server.count("GET", "x") == 3


def test_a_write_that_succeeded_but_was_answered_with_an_error(server, store):
    server.faults.append(Fault("PUT", 500, after=True))
    assert create_once(store, "x", b"content").size == 7
    assert server.objects["x"] == b"content"


def test_a_bucket_that_ignores_conditions_is_noted(server, store):
    server.conditional = False
    assert store.create("x", b"first")
    assert not store.create("x", b"second")
    assert store.read("x") == b"first"
    assert len(store.notes) == 1
    assert "If-None-Match" in store.notes[0]
    assert list(server.objects) == ["x"]


def test_another_conditional_write_under_way(server, store):
    server.faults.append(Fault("PUT", 409, "ConditionalRequestConflict", times=2))
    assert store.create("x", b"content")
    assert server.objects["x"] == b"content"
    server.faults.append(Fault("PUT", 409, "ConditionalRequestConflict", after=True))
    assert create_once(store, "y", b"content").size == 7


@pytest.mark.parametrize("method", ["PUT", "HEAD", "GET", "DELETE"])
def test_what_is_refused_is_not_asked_for_again(server, store, method):
    calls = {"PUT": lambda key: store.create(key, b""), "HEAD": store.stat}
    calls |= {"GET": store.read, "DELETE": store.delete}
    server.faults.append(Fault(method, 403, "AccessDenied", times=99))
    with pytest.raises(NotAllowedError, match="AWS_ACCESS_KEY_ID"):
        calls[method]("x")
    assert server.count(method, "x") == 1


def test_no_credentials(server, monkeypatch):
    for name in KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(NotAllowedError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket").stat("x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(NotAllowedError, match="AWS_PROFILE"):
        open_store("s3://bucket").stat("x")


@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
)
def test_a_key_with_a_line_break_is_named_and_not_shown(monkeypatch, name):
    monkeypatch.setenv(name, "hush\n")
    with pytest.raises(NotAllowedError, match=f"^{name}: holds a space or a line break") as told:
        open_store("s3://bucket")
    assert "hush" not in str(told.value)


@pytest.mark.parametrize("where", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "profile"])
def test_a_custom_endpoint_gets_plain_requests(server, monkeypatch, tmp_path, where):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    if where == "profile":
        (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {server.endpoint}\n")
        monkeypatch.setenv("AWS_PROFILE", "lab")
    else:
        monkeypatch.setenv(where, server.endpoint)
    assert open_store("s3://bucket/p").create("x", b"content")
    assert server.objects == {"p/x": b"content"}
    names = {name.lower() for headers in server.headers for name in headers}
    assert not any("checksum" in name or name == "x-amz-trailer" for name in names)


def test_a_model_is_fetched_in_blocks_of_one_version(server, tmp_path, monkeypatch):
    monkeypatch.setenv("QATUNE_CACHE", str(tmp_path / "cache"))
    weights = bytes(range(251)) * 80_000
    server.objects |= {"m/config.json": b"{}", "m/model.safetensors": weights, "m/empty": b""}
    server.faults += [Fault("GET", 500), Fault("GET", keep=1000, times=2)]
    folder = model_folder("s3://bucket/m", None).path
    assert (folder / "model.safetensors").read_bytes() == weights
    assert (folder / "empty").read_bytes() == b""
    read = [each for each in server.headers if "Range" in each]
    assert {each["Range"] for each in read} >= {f"bytes=0-{CHUNK_BYTES - 1}"}
    assert all("If-Match" in each for each in read)


def test_of_two_downloads_at_once_the_slower_takes_the_result_of_the_other(
    server, tmp_path, monkeypatch
):
    """As on a file system without locks."""
    monkeypatch.setattr("qatune.store.ranges._alone", lambda _: nullcontext())
    monkeypatch.setenv("QATUNE_CACHE", str(tmp_path))
    server.objects |= {"m/config.json": b"{}", "m/model.safetensors": b"weights"}
    others = []
    other = Fault("GET", call=lambda: others.append(model_folder("s3://bucket/m", None)))
    # The first GET is the listing; the second waits until somebody else is done.
    server.faults += [Fault("GET"), other]
    found = model_folder("s3://bucket/m", None)
    assert others == [found]
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name]


def test_of_several_processes_of_a_machine_one_downloads(server, tmp_path, monkeypatch):
    monkeypatch.setenv("QATUNE_CACHE", str(tmp_path))
    server.objects |= {"m/config.json": b"{}", "m/model.safetensors": b"weights" * 1000}
    server.faults.append(Fault("GET", call=lambda: time.sleep(0.2), times=100))
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: model_folder("s3://bucket/m", None), range(8)))
    assert len(found) == 1
    assert server.count("GET", "m/model.safetensors") == 1


def test_a_download_that_fails_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setenv("QATUNE_CACHE", str(tmp_path))
    server.objects |= {"m/config.json": b"{}", "m/model.safetensors": b"weights"}
    server.faults += [Fault("GET"), Fault("GET", 403, "AccessDenied")]
    with pytest.raises(NotAllowedError):
        model_folder("s3://bucket/m", None)
    assert list((tmp_path / "s3").iterdir()) == []


def test_a_name_that_leaves_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("QATUNE_CACHE", str(tmp_path / "cache"))
    server.objects |= {"m/config.json": b"{}", "m/../../x": b"outside"}
    with pytest.raises(MissingInputError, match="leaves its folder"):
        model_folder("s3://bucket/m", None)
    assert not list(tmp_path.rglob("x"))


def test_a_file_that_changes_while_it_is_read(server, store):
    server.objects["a.csv"] = bytes(CHUNK_BYTES + 1)
    (file,) = data_files("s3://bucket/a.csv", None)
    with file.open() as opened:
        server.objects["a.csv"] = bytes(CHUNK_BYTES + 2)
        with pytest.raises(ConflictError, match="changed"):
            opened.read()


@pytest.mark.parametrize("method", ["PUT", "HEAD", "GET"])
def test_clocks_that_differ_are_no_matter_of_credentials(server, store, method):
    calls = {"PUT": lambda key: store.create(key, b""), "HEAD": store.stat, "GET": store.read}
    server.objects["x"] = b"content"
    server.skew = -3600
    with pytest.raises(UnavailableError, match="this machine's clock and the server's differ"):
        calls[method]("x")


@pytest.mark.parametrize("wait", [0.0, 1.5])
def test_a_connection_that_breaks_off_is_made_again(server, store, monkeypatch, wait):
    monkeypatch.setattr(s3, "_ANSWER_SECONDS", 0.5)
    store = open_store("s3://bucket")
    server.faults += [Fault(method, reset=True, silent=wait) for method in ("PUT", "GET", "HEAD")]
    assert create_once(store, "x", b"content").size == 7
    assert store.read("x") == b"content"
    assert store.stat("x").size == 7
    assert not any(fault.times for fault in server.faults)


def test_a_mute_server_is_asked_five_times(server, monkeypatch):
    monkeypatch.setattr(s3, "_ANSWER_SECONDS", 0.2)
    server.faults = [Fault("GET", silent=0.4, times=99)]
    with pytest.raises(UnavailableError):
        open_store("s3://bucket").read("x")
    assert server.count("GET", "x") == 5


def test_a_body_that_trickles_is_asked_for_on_another_connection(server, monkeypatch):
    """Each byte comes in time, all of them would take a minute."""
    monkeypatch.setattr(s3, "_ANSWER_SECONDS", 0.6)
    monkeypatch.setattr(s3, "_SLOWEST", 1_000_000)
    store = open_store("s3://bucket")
    server.objects["x"] = bytes(100_000)
    server.faults.append(Fault("GET", trickle=0.1))
    began = time.monotonic()
    assert store.read("x") == bytes(100_000)
    assert time.monotonic() - began < 5
    assert server.count("GET", "x") == 2


def test_a_body_that_is_slow_but_not_too_slow_is_read_once(server, monkeypatch):
    monkeypatch.setattr(s3, "_ANSWER_SECONDS", 0.6)
    monkeypatch.setattr(s3, "_SLOWEST", 10_000)
    store = open_store("s3://bucket")
    server.objects["x"] = bytes(100_000)
    server.faults.append(Fault("GET", trickle=0.02))
    assert store.read("x") == bytes(100_000)
    assert server.count("GET", "x") == 1
