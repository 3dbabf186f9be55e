"""Templates, and what it takes to put texts of others into a page safely."""

import base64
import hashlib
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from qatune.errors import MissingInputError

_TEMPLATES = Path(__file__).with_name("templates")
_LEVEL = 9


def page(template: str, scripts: tuple[str, ...], **context: Any) -> bytes:
    """Fill a template. The page runs the named scripts, as one, and nothing else."""
    script = "".join(_TEMPLATES.joinpath(name).read_text(encoding="utf-8") for name in scripts)
    text = (
        _environment()
        .get_template(template)
        .render(
            script=markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **context,
        )
    )
    return _bytes(text)


def packed(value: Any) -> str:
    """Return JSON, deflated, in base64: a third of its size, and nothing in it that is HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(_bytes(text), _LEVEL)).decode()


def markup(text: str) -> Any:
    """Mark text as HTML: only for what this package made."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def _bytes(text: str) -> bytes:
    # A lone surrogate has none.
    return text.encode("utf-8", "replace")


@cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write(path: Path, page: bytes) -> None:
    """Write a page where the user wants it; raise MissingInputError where that is no place."""
    try:
        path.write_bytes(page)
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}; choose another --output") from error
