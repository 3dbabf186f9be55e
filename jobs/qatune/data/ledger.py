"""The ledger: ids in = answers + errors, each once."""

from collections import Counter
from collections.abc import Iterable, Sequence

from qatune.errors import QatuneError


def prove(part: str, asked: Sequence[str], answered: Iterable[str], failed: Iterable[str]) -> None:
    """Raise QatuneError unless each id asked in a part has exactly one answer or error there."""
    entries = Counter(answered)
    entries.update(failed)
    wanted = Counter(asked)
    if entries == wanted:
        return
    missing, extra = wanted - entries, entries - wanted
    name = next(iter(missing or extra))
    found = "has neither answer nor error" if missing else "is there more often than asked"
    raise QatuneError(
        f"{part}: the ledger is wrong: row {name!r} {found} ({missing.total()} missing, "
        f"{extra.total()} too many); the input has changed since, or the store lost an object: "
        "choose another name for the run"
    )
