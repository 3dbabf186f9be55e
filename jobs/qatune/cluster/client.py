"""The Kubernetes API: the only module that talks to it. Objects are what the API sends, as JSON.

Every call may raise UnavailableError, NotAllowedError, NoSuchObjectError or ConflictError.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qatune.errors import MissingInputError, NotAllowedError, QatuneError, UnavailableError

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
        from kubernetes.client import BatchV1Api, CoreV1Api

        self._batch, self._core = BatchV1Api(api), CoreV1Api(api)
        self._host = api.configuration.host
        self.namespace = namespace

    def job(self, name: str) -> Object:
        return self._call(f"job {name}", self._batch.read_namespaced_job, name, self.namespace)

    def jobs(self, selector: str) -> list[Object]:
        return self._list("jobs", self._batch.list_namespaced_job, label_selector=selector)

    def patch_job(self, name: str, patch: Object) -> Object:
        return self._call(
            f"job {name}",
            self._batch.patch_namespaced_job,
            name,
            self.namespace,
            patch,
            field_manager=_MANAGER,
            _content_type=_MERGE_PATCH,
        )

    def apply_event(self, name: str, event: Object) -> Object:
        """Create or replace an Event. Rights to exactly this one suffice, unlike for a POST."""
        return self._call(
            f"event {name}",
            self._core.patch_namespaced_event,
            name,
            self.namespace,
            event,
            field_manager=_MANAGER,
            force=True,
            _content_type=_APPLY_PATCH,
        )

    def pods(self, selector: str) -> list[Object]:
        return self._list("pods", self._core.list_namespaced_pod, label_selector=selector)

    def events(self) -> list[Object]:
        return self._list("events", self._core.list_namespaced_event)

    def quotas(self) -> list[Object]:
        return self._list("resource quotas", self._core.list_namespaced_resource_quota)

    def nodes(self) -> list[Object]:
        items: list[Object] = self._call("nodes", self._core.list_node).get("items") or []
        return items

    def pods_everywhere(self) -> list[Object]:
        """Return pods that take up room on a node, in all namespaces."""
        selector = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="
        listed = self._call(
            "pods of all namespaces",
            self._core.list_pod_for_all_namespaces,
            field_selector=selector,
        )
        items: list[Object] = listed.get("items") or []
        return items

    def _list(self, what: str, call: Callable[..., Any], **given: Any) -> list[Object]:
        items: list[Object] = self._call(what, call, self.namespace, **given).get("items") or []
        return items

    def _call(self, what: str, call: Callable[..., Any], *given: Any, **named: Any) -> Object:
        # Raw JSON: the client's models take ten times the memory, and refuse what they do not know.
        with _own_errors(f"{what} in namespace {self.namespace} at {self._host}"):
            response = call(
                *given, _preload_content=False, _request_timeout=_TIMEOUT_SECONDS, **named
            )
            answer: Object = json.loads(response.data)
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

    path = _kubeconfig()
    try:
        kube_config.load_kube_config(path, context, configuration, persist_config=False)
        contexts, current = kube_config.list_kube_config_contexts(path)
    except (ConfigException, OSError, TypeError, ValueError) as error:
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
def _own_errors(what: str) -> Iterator[None]:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise _own_error(error, what) from None
    except (HTTPError, OSError, ValueError) as error:  # no answer, or not a whole one
        reason = f"{type(error).__name__}: {error}"
        raise UnavailableError(f"{what}: the Kubernetes API did not answer: {reason}") from None


def _own_error(error: Any, what: str) -> QatuneError:
    reason = _reason(error)
    if error.status in {401, 403}:
        return NotAllowedError(f"{what}: not allowed: {reason}")
    if error.status == 404:  # noqa: PLR2004
        return NoSuchObjectError(f"{what}: not found; was it deleted?")
    if error.status == 409:  # noqa: PLR2004
        return ConflictError(f"{what}: changed meanwhile")
    if not error.status or error.status == 429 or error.status >= 500:  # noqa: PLR2004
        return UnavailableError(f"{what}: the Kubernetes API did not do its part: {reason}")
    return QatuneError(f"{what}: the Kubernetes API refused the request: {reason}")


def _reason(error: Any) -> str:
    """Return the API's own sentence."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status or ''} {error.reason or ''}".strip()
