"""Which place a process has, and how the ends of several become one."""

import os

import pytest

from qatune import launch
from qatune.errors import UsageError
from qatune.launch import Ended, Group, Place, outcome, own_place


def ended(*codes):
    return [
        Ended(Place(rank, len(codes)), code, f"words of {rank}" if code > 0 else "")
        for rank, code in enumerate(codes)
    ]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0, 0), (0, "")),
        ((70, 65), (65, "words of 1")),
        ((75, 78), (78, "words of 1")),
        ((75, 69), (69, "words of 1")),
        ((70, 75), (75, "words of 1")),
        ((70, 70), (70, "words of 0")),
        ((75, 143), (75, "words of 0")),
        ((70, 143), (143, "words of 1")),
        ((70, -9), (70, "process 1 of 2 was ended by SIGKILL; out of memory, perhaps")),
        ((75, -9), (75, "words of 0")),
        ((0, -11), (70, "process 1 of 2 was ended by SIGSEGV")),
        ((-15, -15), (143, "process 0 of 2 was ended by SIGTERM; run the same command again")),
    ],
)
def test_of_several_ends_the_one_that_says_most_counts(codes, expected):
    assert outcome(ended(*codes)) == expected


def test_a_group_numbers_its_processes_through_all_machines():
    places = Group(nodes=3, processes=2, node=1, host="first", port=29500).places()
    assert [(place.rank, place.local_rank) for place in places] == [(2, 0), (3, 1)]
    assert {(place.size, place.host, place.port) for place in places} == {(6, "first", 29500)}


def test_processes_of_one_machine_need_no_address():
    ports = {place.port for place in Group(1, 2, 0, None, None).places()}
    assert len(ports) == 1
    assert ports.pop() > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((2, 1, 2, "first", 29500), "--node-rank 2: of 2 machines the last is 1"),
        ((2, 1, 0, None, 29500), "--nodes 2: the machines have to know where to meet"),
        ((2, 1, 0, "first", None), "--master-addr and --master-port"),
    ],
)
def test_what_makes_no_group(given, message):
    with pytest.raises(UsageError, match=message):
        Group(*given)


@pytest.fixture
def environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_without_a_place_a_process_is_alone(environment):
    assert own_place(5) is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("visible", "own"), [(None, "1"), ("4,7", "7"), ("4", ""), ("", ""), ("GPU-a,GPU-b", "GPU-b")]
)
def test_a_process_with_a_place_sees_its_own_gpu_and_hides_the_place(environment, visible, own):
    given = {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1",
        "MASTER_ADDR": "first", "MASTER_PORT": "29500",
    }  # fmt: skip
    for name, value in given.items():
        environment.setenv(name, value)
    environment.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        environment.delenv("CUDA_VISIBLE_DEVICES")
    environment.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert own_place(5) == Place(3, 4, 1, "first", 29500, 5, start=2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own
    assert not given.keys() & os.environ.keys()


def test_a_place_that_is_none(environment):
    environment.setenv("RANK", "first")
    environment.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="not a place among processes"):
        own_place(5)


def test_one_process_a_core_at_most(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [launch._threads(neighbours) for neighbours in (1, 3, 16)] == [8, 2, 1]
