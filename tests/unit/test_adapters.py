import pytest
from tests.support import answering, tiny

from qatune.errors import MissingInputError
from qatune.model import adapters
from qatune.model.adapters import Base
from qatune.store.sources import describe_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    return answering.random_adapter(folder, tmp_path_factory.mktemp("adapter"))


def base(folder, quantization="none"):
    digest = adapters.base_digest(describe_files(folder, "any"))
    return Base("tiny", None, digest, quantization, "float32")


def test_an_adapter_of_conv1d_layers_fits_the_quantized_base_and_says_so(folder, adapter):
    loaded = answering.load(folder, quantization="nf4")
    notes = []
    adapters.attach(loaded.model, adapter, base(folder, "nf4"), notes.append)
    assert "trained on float32 weights and is used on nf4 ones" in notes[0]


def test_an_adapter_of_another_base_is_refused(folder, adapter):
    other = Base("other", None, "0" * 64, "none", "float32")
    with pytest.raises(MissingInputError, match="does not belong to other"):
        adapters.attach(answering.load(folder).model, adapter, other, print)


def test_without_a_record_of_its_base_the_shapes_decide(folder, adapter, tmp_path):
    for path in adapter.iterdir():
        if path.name != "qatune.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    adapters.attach(answering.load(folder).model, tmp_path, base(folder), print)
    llama = tiny.tiny_llama(tmp_path / "llama")
    with pytest.raises(MissingInputError, match="does not belong to"):
        adapters.attach(answering.load(llama).model, tmp_path, base(llama), print)


def test_a_damaged_adapter(folder, adapter, tmp_path):
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / adapters.WEIGHTS).write_bytes(b"torn")
    with pytest.raises(MissingInputError, match="not a LoRA adapter"):
        adapters.attach(answering.load(folder).model, tmp_path, base(folder), print)
