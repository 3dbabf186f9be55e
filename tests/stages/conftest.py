import pytest
from tests.support import tiny

from qatune.store.memory import MemoryStore

# What loads torch is imported where it is used: some stages' tests do without it.


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def llama_adapter(llama, tmp_path_factory):
    from tests.support import answering

    return answering.random_adapter(llama, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def stage(store, llama):
    """A run that is ready for its answers, by any number of shards."""
    from tests.support import answering

    return answering.prepared(store, llama, None, answering.SHARDED, adapter="none")


@pytest.fixture(scope="module")
def whole(llama):
    """The same run by one shard."""
    from tests.support import answering

    from qatune.stages import generate

    store = MemoryStore()
    generate.run(answering.prepared(store, llama, None, answering.SHARDED, adapter="none"))
    return store
