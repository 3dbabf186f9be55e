from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from qatune.data.order import epoch_order, own_batches

LENGTHS = st.lists(st.integers(1, 1000), max_size=300)


@given(LENGTHS, st.integers(), st.integers(0, 50), st.integers(1, 9), st.booleans())
def test_every_row_comes_exactly_once(lengths, seed, epoch, batch_size, grouped):
    order = epoch_order(lengths, seed=seed, epoch=epoch, batch_size=batch_size, grouped=grouped)
    assert sorted(order) == list(range(len(lengths)))


@given(LENGTHS, st.integers(), st.booleans())
def test_the_order_depends_on_nothing_else(lengths, seed, grouped):
    again = [
        epoch_order(lengths, seed=seed, epoch=3, batch_size=4, grouped=grouped) for _ in range(2)
    ]
    assert again[0] == again[1]


@given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 4))
def test_processes_divide_each_batch_of_all(rows, batch_size, processes):
    order = list(range(rows))
    shares = [
        own_batches(order, batch_size=batch_size, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    together = own_batches(order, batch_size=batch_size * processes)
    assert [list(chain(*batches)) for batches in zip(*shares, strict=True)] == together
    assert list(chain(*together)) == order


def test_epochs_and_seeds_differ():
    orders = {
        (seed, epoch): tuple(
            epoch_order([1] * 100, seed=seed, epoch=epoch, batch_size=4, grouped=False)
        )
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    }
    assert len(set(orders.values())) == 4


def test_grouping_by_length_saves_padding():
    lengths = [1 + (row * 37) % 500 for row in range(1000)]

    def padded(grouped):
        order = epoch_order(lengths, seed=1, epoch=0, batch_size=8, grouped=grouped)
        batches = [order[start : start + 8] for start in range(0, len(order), 8)]
        return sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)

    assert padded(grouped=True) < 1.05 * sum(lengths) < 1.5 * sum(lengths) < padded(grouped=False)


def test_the_longest_row_comes_in_the_first_full_batch():
    lengths = [1 + (row * 37) % 500 for row in range(1003)]
    order = epoch_order(lengths, seed=1, epoch=2, batch_size=8, grouped=True)
    assert max(lengths) in {lengths[row] for row in order[:8]}
