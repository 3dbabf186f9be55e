"""The Kubernetes API: the only module that talks to it. Objects are the API's own JSON.

Every call may raise UnavailableError, NotAllowedError, NoSuchObjectError or ConflictError.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from qatune.errors import MissingInputError, NotAllowedError, QatuneError, UnavailableError

_BATCH, _CORE = "/apis/batch/v1", "/api/v1"
_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_APPLY_PATCH = "application/apply-patch+yaml"
_MANAGER = "qatune"
_TIMEOUT_SECONDS = (5, 15)
"""To connect, and to wait for bytes."""
_POD_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Object = Mapping[str, Any]


class NoClusterError(MissingInputError):
    """Nothing says where a cluster is."""


class NoSuchObjectError(MissingInputError):
    """The cluster has no object of that name."""


class ConflictError(UnavailableError):
    """Somebody changed the object since it was read."""


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._api = api
        self._host = api.configuration.host
        self._within = f"/namespaces/{namespace}"
        self.namespace = namespace

    def job(self, name: str) -> Object:
        return self._call("GET", f"{_BATCH}{self._within}/jobs/{name}")

    def jobs(self, selector: str) -> list[Object]:
        return self._list(f"{_BATCH}{self._within}/jobs", labelSelector=selector)

    def patch_job(self, name: str, patch: Object) -> Object:
        path = f"{_BATCH}{self._within}/jobs/{name}"
        return self._call("PATCH", path, {"fieldManager": _MANAGER}, patch, _MERGE_PATCH)

    def apply_event(self, name: str, event: Object) -> Object:
        """Create or replace an Event. Rights to exactly this one suffice, unlike for a POST."""
        path = f"{_CORE}{self._within}/events/{name}"
        query = {"fieldManager": _MANAGER, "force": "true"}
        return self._call("PATCH", path, query, event, _APPLY_PATCH)

    def pods(self, selector: str) -> list[Object]:
        return self._list(f"{_CORE}{self._within}/pods", labelSelector=selector)

    def events(self) -> list[Object]:
        return self._list(f"{_CORE}{self._within}/events")

    def quotas(self) -> list[Object]:
        return self._list(f"{_CORE}{self._within}/resourcequotas")

    def nodes(self) -> list[Object]:
        return self._list(f"{_CORE}/nodes")

    def pods_on_nodes(self) -> list[Object]:
        """Return the pods that take up room on a node, of all namespaces."""
        taking = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="
        return self._list(f"{_CORE}/pods", fieldSelector=taking)

    def _list(self, path: str, **query: str) -> list[Object]:
        items: list[Object] = self._call("GET", path, query).get("items") or []
        return items

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        kind: str = _JSON,
    ) -> Object:
        """Send one request. The typed calls of the client take 25 MB more, for the same JSON."""
        request = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": _JSON, "Content-Type": kind},
            body=body,
            auth_settings=["BearerToken"],
        )
        what = f"{self._host}{path}"
        with _plain_errors(what):
            response = self._api.call_api(*request, _request_timeout=_TIMEOUT_SECONDS)
            text = response.read()
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise _refusal(response.status, text, what)
            answer: Object = json.loads(text)
        return answer


def connect(namespace: str | None = None, context: str | None = None) -> Cluster:
    """Connect as kubectl does: by KUBECONFIG or ~/.kube/config, else as the pod this runs in.

    Raises NoClusterError where there is neither.
    """
    from kubernetes.client import ApiClient, Configuration

    configuration = Configuration()
    configuration.retries = False  # callers know how long to go on trying
    if context or _kubeconfig():
        own_namespace = _load_kubeconfig(configuration, context)
    else:
        own_namespace = _load_pod(configuration)
    return Cluster(ApiClient(configuration), namespace or own_namespace or "default")


def _kubeconfig() -> str | None:
    """Return the user's kubeconfig, by KUBECONFIG or in its usual place."""
    usual = Path("~/.kube/config").expanduser()
    return os.environ.get("KUBECONFIG") or (str(usual) if usual.is_file() else None)


def _load_kubeconfig(configuration: Any, context: str | None) -> str | None:
    from kubernetes.config import ConfigException, kube_config
    from yaml import YAMLError

    path = _kubeconfig()
    try:
        kube_config.load_kube_config(path, context, configuration, persist_config=False)
        contexts, current = kube_config.list_kube_config_contexts(path)
    except (ConfigException, OSError, TypeError, ValueError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise NoClusterError(f"kubeconfig {path}: cannot be used: {reason}") from None
    named = context or current["name"]
    found = next(each["context"] for each in contexts if each["name"] == named)
    namespace: str | None = found.get("namespace")
    return namespace


def _load_pod(configuration: Any) -> str | None:
    from kubernetes.config import ConfigException, load_incluster_config

    try:
        load_incluster_config(configuration)
    except ConfigException:
        raise NoClusterError(
            "no cluster: neither KUBECONFIG nor ~/.kube/config, and this is no pod with a token"
        ) from None
    return (_POD_FOLDER / "namespace").read_text(encoding="utf-8").strip()


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (ApiException, HTTPError, OSError, ValueError) as error:  # no answer, or half of one
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnavailableError(f"{what}: the Kubernetes API does not answer: {reason}") from None


def _refusal(status: int, text: bytes, what: str) -> QatuneError:
    """Turn an answer that is none into an error, with the API's own sentence in it."""
    reason = f"{status} {_sentence(text)}"
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            unknown = status == HTTPStatus.UNAUTHORIZED
            mend = "log in again" if unknown else "ask for the right to it"
            return NotAllowedError(f"{what}: not allowed: {reason}; {mend}")
        case HTTPStatus.NOT_FOUND:
            return NoSuchObjectError(f"{what}: not found; was it deleted?")
        case HTTPStatus.CONFLICT:
            return ConflictError(f"{what}: changed meanwhile")
        case HTTPStatus.TOO_MANY_REQUESTS:
            return UnavailableError(f"{what}: the Kubernetes API is busy: {reason}")
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return UnavailableError(f"{what}: the Kubernetes API failed: {reason}")
        case _:
            return QatuneError(f"{what}: the Kubernetes API refused the request: {reason}")


def _sentence(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200].decode(errors="replace")
