import pytest

from qatune.evaluation import shape


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("one two three", 0),
        ("a b c d", 0),
        ("a b c d a b c d", 0.2),
        ("a a a a a a", 2 / 3),
    ],
)
def test_share_of_repeated_sequences_of_four_words(text, share):
    assert shape.repetition(text) == pytest.approx(share)


@pytest.mark.parametrize(
    "text",
    [
        "It starts well. " + "and then " * 12,
        "x = [" + "0, " * 40,
        "The answer is: " + "No.\n\n" * 20,
        "abc " + "=" * 60,
        "It ends within a piece. " + "again and " * 9 + "aga",
    ],
)
def test_loops(text):
    assert shape.ends_in_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ha ha ha ha",  # short
        "and then " * 12
        + "it ends in another way, with a sentence of its own that is long enough.",
        "A long text that says many things, of which none comes twice. " * 2,
        "One sentence of a long answer differs from the next. " * 3 + "x = (0, 0, 0, 0, 0, 0)",
    ],
)
def test_no_loops(text):
    assert not shape.ends_in_loop(text)
