"""Templates, and what it takes to put texts of others into a page safely."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from qatune.errors import MissingInputError

_TEMPLATES = Path(__file__).with_name("templates")
# What could end the script element, or a line of it, inside a string of JSON.
_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


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
    # A lone surrogate has no bytes.
    return str(text).encode("utf-8", "replace")


def embedded(value: Any) -> Any:
    """Return JSON that is safe inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return markup(text.translate(_UNSAFE))


def markup(text: str) -> Any:
    """Mark text as HTML: only for what this package made."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


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
