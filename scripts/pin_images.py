"""Name images by the digests that their registries answer; none is ever written by hand.

Usage: python scripts/pin_images.py                the base images, in the files that name them
       python scripts/pin_images.py PREFIX TAG     pushed images (PREFIXtrain:TAG ...), as values
"""

import hashlib
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from pathlib import Path

BASES = {
    "images/base/Dockerfile": r"^ARG BASE_IMAGE=(\S+)$",
    "Makefile": r"^CPU_BASE_IMAGE := (\S+)$",
}
STAGES = {
    "preprocess": "preprocess",
    "train": "train",
    "generate": "generate",
    "evaluate": "preprocess",
    "coordinator": "preprocess",
}
"""Which image each component runs; the chart's rule."""
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_REFERENCE = re.compile(r"(?P<host>[^/]+[.:][^/]*)/(?P<path>[^:@]+):(?P<tag>[\w.-]+)(@.*)?")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class PinError(Exception):
    """A digest that cannot be had; the text is one line for the user."""


@dataclass(frozen=True)
class Reference:
    host: str
    path: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "Reference":
        found = _REFERENCE.fullmatch(text)
        if not found:
            raise PinError(f"{text}: not an image with registry and tag, as host/path/name:tag")
        return cls(found["host"], found["path"], found["tag"])

    @property
    def url(self) -> str:
        host = "registry-1.docker.io" if self.host == "docker.io" else self.host
        # As container tools do, plain HTTP for a registry on this machine.
        scheme = "http" if host.split(":")[0] in {"localhost", "127.0.0.1"} else "https"
        return f"{scheme}://{host}/v2/{self.path}/manifests/{self.tag}"

    def __str__(self) -> str:
        return f"{self.host}/{self.path}:{self.tag}"


def digest(image: Reference) -> str:
    """Ask the registry which manifest the tag names now, and hash it."""
    accept = {"Accept": ", ".join(MANIFESTS)}
    try:
        headers, body = _get(image.url, accept)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.UNAUTHORIZED:
            raise
        token = _anonymous_token(image, error.headers["WWW-Authenticate"] or "")
        headers, body = _get(image.url, accept | {"Authorization": f"Bearer {token}"})
    found = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if headers.get("Docker-Content-Digest", found) != found:
        raise PinError(f"{image}: the registry's digest is not that of what it sent; try again")
    return found


def _anonymous_token(image: Reference, challenge: str) -> str:
    given = dict(_CHALLENGE.findall(challenge))
    if not challenge.startswith("Bearer ") or "realm" not in given:
        raise PinError(f"{image}: the registry wants a login; this asks without one")
    query = urllib.parse.urlencode(
        {key: given[key] for key in ("service", "scope") if key in given}
    )
    answer = json.loads(_get(f"{given['realm']}?{query}", {})[1])
    return str(answer.get("token") or answer["access_token"])


def _get(url: str, headers: dict[str, str]) -> tuple[Message, bytes]:
    if not url.startswith(("https://", "http://")):
        raise PinError(f"{url}: not the address of a registry")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - its scheme is checked
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
        return answer.headers, answer.read()


def asked(image: Reference) -> str:
    """Return the digest; say in one line why there is none."""
    try:
        return digest(image)
    except urllib.error.HTTPError as error:
        raise PinError(f"{image}: the registry answers {error.code} {error.reason}") from error
    except (OSError, ValueError, KeyError) as error:
        raise PinError(f"{image}: no answer that a registry gives: {error}") from error


def pin_bases() -> None:
    """Write name:tag@digest where a file has name:tag; all are asked before one is written."""
    written = {}
    for name, pattern in BASES.items():
        text = Path(name).read_text(encoding="utf-8")
        found = re.search(pattern, text, re.MULTILINE)
        if not found:
            raise PinError(f"{name}: no line like {pattern}")
        image = Reference.parse(found[1])
        pinned = f"{image}@{asked(image)}"
        written[name] = text[: found.start(1)] + pinned + text[found.end(1) :]
        print(f"{name}: {pinned}")
    for name, text in written.items():
        Path(name).write_text(text, encoding="utf-8")


def print_values(prefix: str, tag: str) -> None:
    """Print a values file that names each component's image by its digest."""
    names = sorted(set(STAGES.values()))
    images = {name: Reference.parse(f"{prefix}{name}:{tag}") for name in names}
    digests = {name: asked(image) for name, image in images.items()}
    print(f"# The images {prefix}*:{tag}, for helm install -f")
    print("stages:")
    for component, name in STAGES.items():
        image = images[name]
        print(f"  {component}:\n    image: {image.host}/{image.path}@{digests[name]}")


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            print_values(*sys.argv[1:])
        else:
            pin_bases()
    except PinError as error:
        sys.exit(f"error: {error}")
