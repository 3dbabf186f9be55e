import pytest

from qatune.errors import MissingInputError, UnavailableError, UsageError
from qatune.store import checkpoints
from qatune.store.memory import MemoryStore

PREFIX = "runs/r/train/checkpoints/"


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def save(store, tmp_path):
    def saved(step, made_for="this", **given):
        folder = tmp_path / f"local-{step}"
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_bytes(f"weights of {step}".encode())
        (folder / "state").write_bytes(b"state")
        return checkpoints.save(store, PREFIX, step, folder, made_for, **given)

    return saved


def newest(store, tmp_path, made_for="this"):
    found = checkpoints.newest(store, PREFIX, tmp_path / "fetched", made_for)
    return None if found is None else (found[0].step, (found[1] / "weights").read_text())


def steps(store):
    return sorted({int(key.split("step-")[1][:8]) for key in store.keys(PREFIX)})


def test_more_processes_or_fewer_cannot_go_on_from_it(save, store, tmp_path):
    save(4, processes=2)
    with pytest.raises(UsageError, match=r"^1 processes train together .* was made by 2: "):
        newest(store, tmp_path)


def test_there_is_none_at_first(store, tmp_path):
    assert newest(store, tmp_path) is None


def test_the_newest_comes_back_whole(store, save, tmp_path):
    save(9)
    save(120)
    assert newest(store, tmp_path) == (120, "weights of 120")


def test_a_torn_one_is_passed_over_and_can_be_saved_again(store, save, tmp_path):
    save(1)
    torn = save(2)
    store.delete(torn.folder + "checkpoint.json")
    assert newest(store, tmp_path) == (1, "weights of 1")
    save(2)
    assert newest(store, tmp_path) == (2, "weights of 2")


@pytest.mark.parametrize("name", ["weights", "checkpoint.json"])
@pytest.mark.parametrize("damage", [lambda data: b"\0" + data[1:], lambda data: data[:-1]])
def test_a_damaged_one_is_passed_over_and_named(store, save, tmp_path, capsys, *, name, damage):
    save(1)
    key = save(2).folder + name
    store.replace(key, damage(store.read(key)))
    assert newest(store, tmp_path) == (1, "weights of 1")
    assert "step-00000002" in "".join(capsys.readouterr())


def test_a_flipped_bit_anywhere_is_found(store, save, tmp_path):
    save(1, processes=2)
    folder = save(2, processes=2).folder
    flips = 0
    for key in list(store.keys(folder)):
        whole = store.read(key)
        for place in range(len(whole)):
            bit = 1 << place % 8
            store.replace(key, whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            found = checkpoints.newest(store, PREFIX, tmp_path, "this", processes=2)
            assert found[0].step == 1, f"{key}: byte {place}"
            flips += 1
        store.replace(key, whole)
    assert flips > 400
    assert checkpoints.newest(store, PREFIX, tmp_path, "this", processes=2)[0].step == 2


def test_the_complete_ones_are_told_with_their_files(store, save):
    one, torn, two = save(1), save(2), save(3)
    store.delete(torn.folder + "checkpoint.json")
    told = dict(checkpoints.complete(store, PREFIX))
    assert list(told) == [one, two]
    assert [ref.key for ref in told[two]] == [two.folder + "state", two.folder + "weights"]
    store.replace(two.folder + "checkpoint.json", b"{}")
    with pytest.raises(MissingInputError, match=r"step-00000003/\w+/checkpoint\.json"):
        list(checkpoints.complete(store, PREFIX))


def test_a_missing_file_is_damage(store, save, tmp_path):
    store.delete(save(1).folder + "state")
    assert newest(store, tmp_path) is None


def test_one_of_another_recipe_is_not_used(store, save, tmp_path):
    save(1, made_for="another")
    assert newest(store, tmp_path) is None


def test_pruning_keeps_the_newest(store, save):
    saved = [save(step) for step in (1, 2, 3, 4)]
    checkpoints.prune(store, PREFIX, saved[-1], keep=2)
    assert steps(store) == [3, 4]


def test_pruning_clears_torn_ones_away_but_not_those_of_a_trainer_ahead(store, save):
    store.delete(save(1).folder + "checkpoint.json")
    save(9)
    store.delete(save(8).folder + "checkpoint.json")
    checkpoints.prune(store, PREFIX, save(2), keep=1)
    assert steps(store) == [2, 8, 9]


def flip(store, saved):
    key = saved.folder + "weights"
    store.replace(key, store.read(key).swapcase())


def test_a_damaged_one_stands_for_none_and_goes_when_there_is_a_newer(store, save, tmp_path):
    good, bad, found = save(10), save(20), []
    flip(store, bad)
    where = (store, PREFIX, tmp_path / "fetched", "this")
    assert checkpoints.newest(*where, damaged=found.append)[0] == good
    assert found == [bad]
    again = save(20)
    checkpoints.prune(store, PREFIX, again, 2, found)
    assert {key.rpartition("/")[0] + "/" for key in store.keys(PREFIX)} == {
        good.folder, again.folder,
    }  # fmt: skip


def test_what_is_no_damage_is_not_told_of(store, save, tmp_path):
    found = []
    save(1, made_for="another")
    store.delete(save(2).folder + "checkpoint.json")
    assert checkpoints.newest(store, PREFIX, tmp_path, "this", damaged=found.append) is None
    assert not found


def test_two_of_one_step_stand_for_one(store, save):
    for step in (10, 20, 20):
        saved = save(step)
    checkpoints.prune(store, PREFIX, saved, keep=2)
    assert steps(store) == [10, 20]
    assert len(list(store.keys(PREFIX))) == 9


def test_a_folder_that_has_vanished_is_no_checkpoint(store, tmp_path):
    with pytest.raises(UnavailableError, match="its files are gone"):
        checkpoints.save(store, PREFIX, 1, tmp_path / "vanished", "this")
    assert not list(store.keys(PREFIX))
