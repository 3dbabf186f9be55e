"""Data and models from disk and from the real S3 server."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from qatune.errors import MissingInputError
from qatune.store.opening import open_store
from qatune.store.sources import adapter_folder, data_files, model_folder


def test_files_of_a_folder_a_glob_and_a_path(tmp_path):
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).write_text(name)
    for source, files in ((str(tmp_path), "*.csv"), (f"{tmp_path}/*.csv", "*")):
        assert [file.name for file in data_files(source, None, files)] == ["a.csv", "b.csv"]
    (file,) = data_files(f"{tmp_path}/c.txt", None)
    with file.open() as opened:
        assert opened.read() == b"c.txt"
    assert file.size == 5


@pytest.mark.parametrize("source", ["/no/such/file.csv", "/no/such/*.csv", "someone/dataset"])
def test_nothing_there(source):
    with pytest.raises(MissingInputError, match="revision"):
        data_files(source, None)


def test_files_of_a_bucket_are_read_by_ranges(s3_store):
    data = bytes(range(251)) * 80_000
    s3_store.create("data/a.bin", data)
    s3_store.create("data/b.csv", b"question,answer\n")
    assert [file.name for file in data_files(f"{s3_store.uri}/data", None)] == ["a.bin", "b.csv"]
    assert [file.name for file in data_files(f"{s3_store.uri}/data/*.csv", None)] == ["b.csv"]
    (file,) = data_files(f"{s3_store.uri}/data/a.bin", None)
    with file.open() as opened:
        assert opened.read() == data
        opened.seek(-7, 2)
        assert opened.read() == data[-7:]
        opened.seek(9_000_000)
        assert opened.read(5) == data[9_000_000:9_000_005]
    with pytest.raises(MissingInputError):
        data_files(f"{s3_store.uri}/none.csv", None)


def test_parquet_in_a_bucket_is_read_where_it_is_needed(s3_store):
    table = pa.table({"question": [f"q{n}" for n in range(5000)], "noise": range(5000)})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, row_group_size=1000)
    s3_store.create("rows.parquet", sink.getvalue().to_pybytes())
    (file,) = data_files(f"{s3_store.uri}/rows.parquet", None)
    with file.open() as opened, parquet.ParquetFile(opened) as found:
        assert found.num_row_groups == 5
        batches = list(found.iter_batches(700, columns=["question"]))
    assert pa.Table.from_batches(batches) == table.select(["question"])


def test_a_model_in_a_bucket_is_downloaded_once(s3_store, tmp_path, monkeypatch):
    monkeypatch.setenv("QATUNE_CACHE", str(tmp_path))
    s3_store.create("m/config.json", b"{}")
    with pytest.raises(MissingInputError, match="no weights"):
        model_folder(f"{s3_store.uri}/m", None)
    s3_store.create("m/model.safetensors", b"weights")
    found = model_folder(f"{s3_store.uri}/m", None)
    assert (found.path / "model.safetensors").read_bytes() == b"weights"
    assert model_folder(f"{s3_store.uri}/m", None) == found
    with pytest.raises(MissingInputError, match="no adapter"):
        adapter_folder(f"{s3_store.uri}/m")


def test_a_missing_bucket_is_named(s3_environment):
    with pytest.raises(MissingInputError, match="no-such-bucket"):
        data_files("s3://no-such-bucket/x.csv", None)
    with pytest.raises(MissingInputError, match="no-such-bucket"):
        open_store("s3://no-such-bucket/p").stat("x")
