"""How processes that train together find each other."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.support.group import free_port
from torch.distributed import TCPStore

from qatune.errors import UnavailableError, UsageError
from qatune.launch import Place
from qatune.model import distributed
from qatune.model.distributed import Peers, join
from qatune.model.trainer import AdapterTrainer


def never():
    return False


@pytest.fixture
def place():
    return Place(size=2, host="127.0.0.1", port=free_port(), timeout=20)


def in_thread(pool, place):
    return pool.submit(distributed._meet, place, never)


def test_the_first_says_who_did_not_come(place):
    three = replace(place, size=3, timeout=5)
    with ThreadPoolExecutor() as pool:
        first, _ = in_thread(pool, three), in_thread(pool, replace(three, rank=1))
        with pytest.raises(UnavailableError, match=r"did not come within 5 s: 2$"):
            first.result()


def test_another_says_what_it_did_not_reach(place):
    with pytest.raises(
        UnavailableError, match=r"process 1 of 2 waited 1 s at 127.0.0.1:\d+ for the others: Conn"
    ):
        join(replace(place, rank=1, timeout=1), never)


def test_nobody_waits_for_what_is_over(place):
    assert join(replace(place, rank=1), lambda: True) is None


def test_they_agree_on_who_is_there(place):
    with ThreadPoolExecutor() as pool:
        met = [in_thread(pool, replace(place, rank=rank)) for rank in (1, 0)]
        (roll, _), (same, _) = [each.result() for each in met]
    assert roll == same
    assert [device for _, device in roll] == ["cpu", "cpu"]


def test_one_that_was_replaced_before_all_had_come_is_not_waited_for(place):
    three = replace(place, size=3)
    with ThreadPoolExecutor() as pool:
        first = in_thread(pool, three)
        time.sleep(0.5)
        store = distributed._store(replace(three, rank=1))
        store.set("here/1", json.dumps(("dead", "cpu")))
        third = in_thread(pool, replace(three, rank=2))
        time.sleep(1)
        assert not first.done()  # the dead one confirms nothing
        second = in_thread(pool, replace(three, rank=1))
        rolls = [each.result()[0] for each in (first, second, third)]
    assert rolls[0] == rolls[1] == rolls[2]
    assert "dead" not in dict(rolls[0])


def test_one_that_comes_again_waits_for_the_others_to_do_so_too(place):
    with ThreadPoolExecutor() as pool:
        old = [in_thread(pool, replace(place, rank=rank)) for rank in (0, 1)]
        for each in old:
            each.result()
        again = in_thread(pool, replace(place, rank=1))
        time.sleep(1)
        assert not again.done()  # the old group's store is still there
        old.clear()
        new = in_thread(pool, place)
        assert new.result()[0] == again.result()[0]


def test_those_that_torchrun_starts_again_meet_again(place):
    """Its store outlives them, with all that they have agreed on before."""
    agent = TCPStore(place.host, place.port, is_master=True, wait_for_workers=False)
    with ThreadPoolExecutor() as pool:
        for start in (0, 1):
            ours = replace(place, hosted=True, start=start)
            met = [in_thread(pool, replace(ours, rank=rank)) for rank in (0, 1)]
            (roll, _), (same, _) = [each.result() for each in met]
            assert roll == same
    del agent


def test_a_process_without_a_gpu_among_some_that_have_one():
    with pytest.raises(UsageError, match="process 1 of 2 has no GPU and process 0 has one"):
        distributed._check_devices(["cuda", "cpu"])
    distributed._check_devices(["cuda", "cuda"])


def drawn(seed=1, step=0, rank=0, part=0):
    trainer = SimpleNamespace(
        _seed=seed, state=SimpleNamespace(global_step=step), _peers=Peers(rank, 4)
    )
    AdapterTrainer._draw_anew(trainer, part)
    return torch.rand(4).tolist()


def test_masks_depend_on_seed_step_process_and_part_alone():
    places = [{}, {"seed": 2}, {"step": 1}, {"rank": 1}, {"part": 1}]
    once, again = ([drawn(**place) for place in places] for _ in range(2))
    assert once == again
    assert len({tuple(numbers) for numbers in once}) == len(places)
