"""Which nodes a pod fits on, and what the others lack. Pure.

The scheduler knows more (volumes, pods that want to be near each other); what counts for GPU pools
is here: resources, taints, labels.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

_UNITS = {"n": "1e-9", "u": "1e-6", "m": "1e-3", "": "1", "k": "1e3", "M": "1e6", "G": "1e9"}
_UNITS |= {"T": "1e12", "P": "1e15", "E": "1e18"}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)")
_OWN_TAINTS = "node.kubernetes.io/"
"""Taints that Kubernetes puts on nodes in trouble; every pod bears some of them for a while."""

Labels = Mapping[str, str]
Term = Sequence[Mapping[str, Any]]
"""Requirements that all hold: `{"key": ..., "operator": ..., "values": [...]}`."""


@dataclass(frozen=True)
class Taint:
    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}" if self.value else self.key


@dataclass(frozen=True)
class Needs:
    """What a pod asks of its node."""

    requests: Mapping[str, Decimal]
    tolerations: Sequence[Mapping[str, Any]] = ()
    selector: Labels = field(default_factory=dict)
    affinity: Sequence[Term] = ()
    """Any one of these; none: no wish."""


@dataclass(frozen=True)
class Node:
    name: str
    labels: Labels
    taints: Sequence[Taint]
    allocatable: Mapping[str, Decimal]
    used: Mapping[str, Decimal]


def quantity(text: str | float) -> Decimal:
    """Read Kubernetes' numbers: `100m`, `1.5`, `8Gi`, `1e3`."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    number, unit = Decimal(match[1]), match[2]
    return number * 1024 ** _BINARY[unit] if unit in _BINARY else number * Decimal(_UNITS[unit])


def needs(spec: Mapping[str, Any]) -> Needs:
    """Read what a pod's spec asks for."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or ()
    return Needs(
        requests=requests(spec),
        tolerations=spec.get("tolerations") or (),
        selector=spec.get("nodeSelector") or {},
        affinity=[
            [*(term.get("matchExpressions") or ()), *(term.get("matchFields") or ())]
            for term in terms
        ],
    )


def requests(spec: Mapping[str, Any]) -> dict[str, Decimal]:
    """Sum what a pod takes up: its containers together, or its largest init container."""
    total: dict[str, Decimal] = {}
    for container in spec["containers"]:
        for name, amount in _requests(container).items():
            total[name] = total.get(name, Decimal(0)) + amount
    for container in spec.get("initContainers") or ():
        for name, amount in _requests(container).items():
            total[name] = max(total.get(name, amount), amount)
    return total | {"pods": Decimal(1)}


def _requests(container: Mapping[str, Any]) -> dict[str, Decimal]:
    asked = (container.get("resources") or {}).get("requests") or {}
    return {name: quantity(amount) for name, amount in asked.items()}


def node(found: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> Node:
    """Read what the API says of a node, and of the pods on it."""
    name = found["metadata"]["name"]
    used: dict[str, Decimal] = {}
    for pod in pods:
        if pod["spec"].get("nodeName") == name:
            for resource, amount in requests(pod["spec"]).items():
                used[resource] = used.get(resource, Decimal(0)) + amount
    taints = found["spec"].get("taints") or ()
    return Node(
        name=name,
        # The one field of a node that an affinity may name, as if it were a label.
        labels=(found["metadata"].get("labels") or {}) | {"metadata.name": name},
        taints=[Taint(each["key"], each.get("value") or "", each["effect"]) for each in taints],
        allocatable={
            resource: quantity(amount)
            for resource, amount in (found["status"].get("allocatable") or {}).items()
        },
        used=used,
    )


def misfit(pod: Needs, on: Node) -> str | None:
    """Say what keeps the pod off the node, to be read after `has`; None if it fits."""
    taint = next((each for each in on.taints if not _tolerated(each, pod.tolerations)), None)
    if taint and taint.key == f"{_OWN_TAINTS}unschedulable":
        return "been cordoned"
    if taint:
        return f"taint {taint}"
    if not _labelled(pod, on.labels):
        return "other labels"
    for resource, amount in pod.requests.items():
        there = on.allocatable.get(resource, Decimal(0))
        if there < amount:
            return f"no {resource}" if not there else f"only {_plain(there)} {resource} in all"
        if there - on.used.get(resource, Decimal(0)) < amount:
            return f"too few free {resource}" if resource != "memory" else "too little free memory"
    return None


def verdict(pod: Needs, nodes: Sequence[Node]) -> tuple[int, str]:
    """Count the nodes that fit, and say of the others how many lack what."""
    found = [misfit(pod, each) for each in nodes]
    lacking = Counter(reason for reason in found if reason)
    told = [
        f"{count} {'has' if count == 1 else 'have'} {reason}"
        for reason, count in lacking.most_common()
    ]
    return found.count(None), ", ".join(told)


def wanted(pod: Needs) -> str:
    """Say what the pod wants of a node: `2 nvidia.com/gpu with toleration pool=gpu`."""
    special = [name for name in pod.requests if "/" in name]
    named = special or [name for name in ("cpu", "memory") if name in pod.requests]
    asked = " and ".join(f"{_plain(pod.requests[name])} {name}" for name in named)
    wishes = [f"toleration {_toleration(each)}" for each in pod.tolerations if not _own(each)]
    wishes += [f"label {key}={value}" for key, value in pod.selector.items()]
    wishes += ["a node affinity"] if pod.affinity else []
    return (asked or "a node") + (f" with {' and '.join(wishes)}" if wishes else "")


def _plain(amount: Decimal) -> str:
    """Write whole numbers without point, and large ones of bytes in Gi or Mi."""
    for unit in ("Gi", "Mi"):
        size = amount / 1024 ** _BINARY[unit]
        if size >= 1:
            return f"{size.quantize(Decimal('0.1')).normalize():f}{unit}"
    return f"{amount.normalize():f}"


def _own(toleration: Mapping[str, Any]) -> bool:
    return str(toleration.get("key") or "").startswith(_OWN_TAINTS)


def _toleration(toleration: Mapping[str, Any]) -> str:
    key, value = toleration.get("key") or "of every taint", toleration.get("value")
    return f"{key}={value}" if value else key


def _tolerated(taint: Taint, tolerations: Iterable[Mapping[str, Any]]) -> bool:
    return taint.effect == "PreferNoSchedule" or any(
        _tolerates(each, taint) for each in tolerations
    )


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    if toleration.get("effect") not in {None, "", taint.effect}:
        return False
    key = toleration.get("key")
    if toleration.get("operator") == "Exists":
        return key in {None, "", taint.key}
    return key == taint.key and (toleration.get("value") or "") == taint.value


def _labelled(pod: Needs, labels: Labels) -> bool:
    if any(labels.get(key) != value for key, value in pod.selector.items()):
        return False
    return not pod.affinity or any(
        all(_holds(each, labels) for each in term) for term in pod.affinity if term
    )


def _holds(requirement: Mapping[str, Any], labels: Labels) -> bool:
    found, values = labels.get(requirement["key"]), list(requirement.get("values") or ())
    holds: Mapping[str, Callable[[], bool]] = {
        "In": lambda: found in values,
        "NotIn": lambda: found not in values,
        "Exists": lambda: found is not None,
        "DoesNotExist": lambda: found is None,
        "Gt": lambda: found is not None and int(found) > int(values[0]),
        "Lt": lambda: found is not None and int(found) < int(values[0]),
    }
    return holds[requirement["operator"]]()
