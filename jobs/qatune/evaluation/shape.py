"""What can be said of an answer without knowing the right one: whether it repeats itself."""

import re

_SPACE = re.compile(r"\s+")
_GRAM = 4
_LEAST_TIMES = 4
_LEAST_CHARACTERS = 40
_LEAST_SHARE = 1 / 3


def repetition(text: str) -> float:
    """Return the share of 4-grams of words that stood in the text before, 0 to 1."""
    words = text.split()
    grams = [tuple(words[at : at + _GRAM]) for at in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def ends_in_loop(text: str) -> bool:
    """Tell whether a text ends by saying one piece again and again.

    At least four times, over at least forty characters and a third of the text.
    """
    text = _SPACE.sub(" ", text.strip())
    least = max(_LEAST_CHARACTERS, int(len(text) * _LEAST_SHARE))
    return any(
        _repeated(text, period) >= max(least, _LEAST_TIMES * period)
        for period in range(1, len(text) // _LEAST_TIMES + 1)
    )


def _repeated(text: str, period: int) -> int:
    """Count the characters at the end that repeat with this period, the first piece included."""
    at = len(text) - 1
    while at >= period and text[at] == text[at - period]:
        at -= 1
    return len(text) - 1 - at + period
