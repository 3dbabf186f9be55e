"""The end of a sandbox elsewhere. Apart, as the coordinator needs no more, and holds little."""

import http.client
from urllib.parse import urlsplit

from qatune import log

_SECONDS = 10.0


def end(url: str) -> None:
    """Tell a sandbox, if it is there, that nobody will ask it for more."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_SECONDS)
    try:
        connection.request("POST", "/end")
        connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        log.get().debug("the sandbox is not there", reason=str(error))
    finally:
        connection.close()
