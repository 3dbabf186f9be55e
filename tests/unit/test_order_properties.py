"""The order of rows in training: whole, the same for any division, and resumed anywhere."""

import random
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutated import PROVEN

from qatune.config import Train
from qatune.data.order import epoch_order, own_batches
from qatune.model.batches import EpochSteps
from qatune.model.distributed import Peers

# Drawn one by one, lists stay short: these are to be longer than a pool of the grouping, too.
LENGTHS = st.builds(
    lambda rows, longest, seed: random.Random(seed).choices(range(longest + 1), k=rows),
    st.integers(0, 700),
    st.integers(0, 3000),
    st.integers(0, 2**32),
)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def trainings(draw):
    """Draw rows and the fields of a recipe that decide on their order."""
    grouped = draw(st.booleans())
    return draw(LENGTHS), Train(
        seed=draw(SEEDS),
        per_device_train_batch_size=draw(st.integers(1, 6)),
        gradient_accumulation_steps=draw(st.integers(1, 4)),
        train_sampling_strategy="group_by_length" if grouped else "random",
    )


def epochs(sampler, count):
    """Return the steps of each epoch, as the trainer asks for them."""
    found = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        found.append(list(sampler))
    return found


@PROVEN
@given(trainings(), st.integers(0, 9), st.integers(1, 5))
def test_each_row_exactly_once_an_epoch(training, epoch, processes):
    lengths, train = training
    batch_size = train.per_device_train_batch_size
    order = epoch_order(
        lengths,
        seed=train.seed,
        epoch=epoch,
        batch_size=batch_size * processes,
        grouped=train.train_sampling_strategy == "group_by_length",
    )
    taken = [
        own_batches(order, batch_size=batch_size, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    assert sorted(chain(*chain(*taken))) == list(range(len(lengths)))
    assert len({len(batches) for batches in taken}) == 1
    assert all(len(batch) <= batch_size for batch in chain(*taken))


@PROVEN
@given(trainings(), st.integers(1, 5), st.integers(1, 3))
def test_processes_take_together_what_one_takes_with_a_larger_batch(training, processes, count):
    lengths, train = training
    shares = [
        epochs(EpochSteps(lengths, train, Peers(rank, processes)), count)
        for rank in range(processes)
    ]
    larger = {"per_device_train_batch_size": train.per_device_train_batch_size * processes}
    alone = epochs(EpochSteps(lengths, train.model_copy(update=larger), Peers()), count)
    together = [
        [sorted(chain(*step)) for step in zip(*epoch, strict=True)]
        for epoch in zip(*shares, strict=True)
    ]
    assert together == [[sorted(step) for step in epoch] for epoch in alone]


@PROVEN
@given(trainings(), st.integers(1, 3), st.data())
def test_resumed_at_any_step_the_rest_is_what_it_would_have_been(training, processes, data):
    lengths, train = training
    count = 3
    peers = Peers(data.draw(st.integers(0, processes - 1)), processes)
    whole = epochs(EpochSteps(lengths, train, peers), count)
    uninterrupted = list(chain(*whole))
    done = data.draw(st.integers(0, len(uninterrupted)))

    again = EpochSteps(lengths, train, peers)
    first, skipped = divmod(done, len(again)) if len(again) else (0, 0)
    rest = []
    for epoch in range(first, count):
        again.set_epoch(epoch)
        rest += list(again)[skipped if epoch == first else 0 :]
    assert rest == uninterrupted[done:]


@PROVEN
@given(trainings(), st.integers(1, 4))
def test_the_steps_of_an_epoch_are_always_the_same_and_of_a_known_number(training, processes):
    lengths, train = training
    sampler = EpochSteps(lengths, train, Peers(0, processes))
    first = list(sampler)
    assert list(sampler) == first
    assert len(sampler) == len(first)


@PROVEN
@given(LENGTHS, SEEDS, st.integers(0, 5), st.integers(1, 6), st.lists(st.integers(0, 5)))
def test_an_order_depends_on_no_other_that_was_made_before(lengths, seed, epoch, size, before):
    def order(number):
        return epoch_order(lengths, seed=seed, epoch=number, batch_size=size, grouped=True)

    alone = order(epoch)
    for number in before:
        order(number)
    assert order(epoch) == alone


@PROVEN
@given(LENGTHS, SEEDS, st.integers(0, 5), st.integers(1, 6))
def test_grouped_rows_lie_in_batches_as_they_are_cut_by_position(lengths, seed, epoch, size):
    order = epoch_order(lengths, seed=seed, epoch=epoch, batch_size=size, grouped=True)
    batches = [[lengths[row] for row in batch] for batch in own_batches(order, batch_size=size)]
    assert all(batch == sorted(batch, reverse=True) for batch in batches)
    full = [batch for batch in batches if len(batch) == size]
    assert all(batch[0] <= full[0][0] for batch in full)
