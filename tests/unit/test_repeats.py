import random
import tracemalloc

import pytest

from qatune.evaluation.repeats import NEAR, OVERLAP_WORDS, SHINGLE_WORDS, Near, Repeats, words


def sentence(made, size=40):
    return " ".join(f"w{made.randrange(400)}" for _ in range(size))


def changed(text, made, share):
    return " ".join(f"n{made.random()}" if made.random() < share else word for word in text.split())


def grams(text, size):
    found = words(text)
    return {tuple(found[at : at + size]) for at in range(len(found) - size + 1)} or {tuple(found)}


def similarity(one, other):
    ours, theirs = grams(one, SHINGLE_WORDS), grams(other, SHINGLE_WORDS)
    return len(ours & theirs) / len(ours | theirs)


def test_finds_every_near_duplicate_that_comparing_all_pairs_finds():
    made = random.Random(3)
    heldout = [sentence(made) for _ in range(60)] + ["short", "two words", ""]
    training = [changed(text, made, made.choice([0, 0.01, 0.02, 0.05])) for text in heldout * 4]
    training += [sentence(made) for _ in range(100)] + ["Short!", "two more words"]
    repeats = Repeats(heldout, [])
    for number, text in enumerate(training):
        repeats.see(str(number), text)
    expected = {}
    for number, text in enumerate(heldout):
        best = max(range(len(training)), key=lambda each: (similarity(text, training[each]), -each))
        if similarity(text, training[best]) >= NEAR:
            expected[number] = Near(str(best), similarity(text, training[best]))
    assert 40 < len(expected) <= len(heldout)
    assert repeats.near == expected


def test_overlap_is_the_share_of_sequences_that_a_training_row_holds():
    text = " ".join(f"w{number}" for number in range(30))
    answer = text + " " + " ".join(f"new{number}" for number in range(12))
    repeats = Repeats([], [answer, text, "short"])
    repeats.see("1", f"Before it. {text.upper()}, and after.")
    known, all_of_it = 30 - OVERLAP_WORDS + 1, 42 - OVERLAP_WORDS + 1
    assert repeats.overlap(answer) == pytest.approx(known / all_of_it)
    assert repeats.overlap(text) == 1
    assert repeats.overlap("short") is None


def test_nothing_is_repeated_before_a_training_row_was_seen():
    answer = " ".join(f"w{number}" for number in range(20))
    repeats = Repeats([answer], [answer])
    assert (repeats.overlap(answer), repeats.near) == (0, {})


def test_the_order_of_words_counts():
    made = random.Random(5)
    text = sentence(made)
    found = text.split()
    repeats = Repeats([text, "a b c d", "a"], [text])
    repeats.see("backwards", " ".join(found[::-1]))
    repeats.see("turned", " ".join(found[26:] + found[13:26] + found[:13]))
    repeats.see("short", "b a d c")
    assert repeats.near == {}
    assert repeats.overlap(text) == pytest.approx(4 / 28)  # what lies within a third


def test_memory_is_some_kilobytes_a_row():
    made = random.Random(6)
    rows = 300
    heldout = [sentence(made, 150) for _ in range(rows)]
    answers = [sentence(made, 200) for _ in range(2 * rows)]
    tracemalloc.start()
    try:
        repeats = Repeats(heldout, answers)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert repeats.near == {}
    assert held / rows < 8_000
    assert peak / rows < 16_000
