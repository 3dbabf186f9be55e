"""Models and data sets of the Hugging Face hub, or of a mirror named by HF_ENDPOINT."""

import fnmatch
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of whichever HTTP client this version of the library is built on
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from qatune import log
from qatune.errors import MissingInputError, NotAllowedError, QatuneError, UnavailableError
from qatune.store.folder import plain_errors

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NESTED = ["*/*"]
_WEIGHTS = ("*.safetensors", "*.bin")
_BESIDES_WEIGHTS = ["*.json", "*.txt", "*.model", "*.jinja"]
# Names like .gitattributes are the hub's own, README.md is the card.
_BESIDES_DATA = [".*", "README.md"]


def dataset_files(repo: str, revision: str, files: str) -> list[tuple[str, Path]]:
    """Download the files of a data set that match; return their names and where they lie."""
    folder = _snapshot(repo, "dataset", revision, [files], _BESIDES_DATA)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [
        (name, folder / name)
        for name in names
        if fnmatch.fnmatchcase(name, files)
        and not any(fnmatch.fnmatchcase(name, each) for each in _BESIDES_DATA)
    ]


def model_commit(repo: str, revision: str) -> str:
    """Return the commit that a branch or tag is at; a commit is not asked about."""
    with _plain_errors(repo, revision):
        return _commit(repo, "model", revision)


def model_snapshot(repo: str, revision: str) -> tuple[Path, str]:
    """Download what loading needs; return the folder and the commit that it is of."""
    for weights in _WEIGHTS:
        folder = _snapshot(repo, "model", revision, [*_BESIDES_WEIGHTS, weights], _NESTED)
        if any(folder.glob(weights)):
            break
    return folder, folder.name


def model_files(folder: Path) -> list[Path]:
    """List what loading needs of a snapshot, which may hold what others have asked for."""
    weights = next((each for each in _WEIGHTS if any(folder.glob(each))), _WEIGHTS[0])
    return sorted({path for each in (*_BESIDES_WEIGHTS, weights) for path in folder.glob(each)})


def _snapshot(repo: str, kind: str, revision: str, wanted: list[str], unwanted: list[str]) -> Path:
    """Download what is not in the cache; return the folder, which is named by its commit.

    Where the commit is known and everything is there, the hub is not asked at all.
    """
    disable_progress_bars()
    with plain_errors(constants.HF_HUB_CACHE), _plain_errors(repo, revision):
        what = {
            "repo_id": repo,
            "repo_type": kind,
            "revision": _commit(repo, kind, revision),
            "allow_patterns": wanted,
            "ignore_patterns": unwanted,
        }
        missing = [each for each in snapshot_download(**what, dry_run=True) if each.will_download]
        if missing:
            size = sum(each.file_size or 0 for each in missing)
            log.get().info(
                "downloading", source=repo, revision=revision, files=len(missing), bytes=size
            )
        return Path(snapshot_download(**what))


def _commit(repo: str, kind: str, revision: str) -> str:
    """Resolve a branch or tag. The library asks for it only once, unlike for files."""
    if _COMMIT.fullmatch(revision):
        return revision
    waits = [0.5, 1.0]
    while True:
        try:
            return str(HfApi().repo_info(repo, repo_type=kind, revision=revision).sha)
        except HTTPError as error:
            if not waits or not _may_pass(error):
                raise
            time.sleep(waits.pop(0))


def _may_pass(error: HTTPError) -> bool:
    if not isinstance(error, HfHubHTTPError):
        return True
    status: int = error.response.status_code
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


@contextmanager
def _plain_errors(repo: str, revision: str) -> Iterator[None]:
    try:
        yield
    except (LocalEntryNotFoundError, DryRunError) as error:
        # The library wraps what the hub said in a report about its cache.
        raise _explained(error.__cause__ or error, repo, revision) from error
    except (HTTPError, HFValidationError, OfflineModeIsEnabled) as error:
        raise _explained(error, repo, revision) from error


def _explained(error: BaseException, repo: str, revision: str) -> QatuneError:
    where = f"{repo}@{revision}"
    if isinstance(error, RevisionNotFoundError):
        return MissingInputError(f"{where}: the hub has no such revision of {repo}")
    if isinstance(error, HFValidationError) or (
        isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
    ):
        return MissingInputError(
            f"{where}: the hub has no such repository; correct the name, "
            "or set HF_TOKEN if it is private"
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return NotAllowedError(
            f"{where}: the hub refuses it; accept the licence on its page and set HF_TOKEN"
        )
    if status is not None:
        return UnavailableError(f"{where}: the hub answered {status}; run the same command again")
    return UnavailableError(
        f"{where}: the hub cannot be reached; run the same command again, "
        "or set HF_ENDPOINT to a mirror"
    )
