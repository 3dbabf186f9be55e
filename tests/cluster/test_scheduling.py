"""Which nodes a pod fits on, and how the others are counted."""

from dataclasses import replace
from decimal import Decimal

import pytest

from qatune.cluster import scheduling
from qatune.cluster.scheduling import Needs, Node, Taint

GIB = 1024**3
FREE = {"nvidia.com/gpu": Decimal(8), "memory": Decimal(64 * GIB), "pods": Decimal(110)}


def a_node(name="gpu-1", taints=(), labels=None, used=None, **room):
    given = {key.replace("gpu", "nvidia.com/gpu"): Decimal(value) for key, value in room.items()}
    return Node(name, labels or {}, taints, FREE | given, used or {})


GPU_TAINT = Taint("nvidia.com/gpu", "present", "NoSchedule")
TWO_GPUS = Needs({"nvidia.com/gpu": Decimal(2), "pods": Decimal(1)})


def tolerating(**toleration):
    return replace(TWO_GPUS, tolerations=[toleration])


def test_a_node_may_be_named():
    spec = {"metadata": {"name": "gpu-1"}, "spec": {}, "status": {}}
    wish = {"key": "metadata.name", "operator": "In", "values": ["gpu-1"]}
    terms = {"nodeSelectorTerms": [{"matchFields": [wish]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    pod = {"containers": [], "affinity": {"nodeAffinity": required}}
    found = [scheduling.node({**spec, "metadata": {"name": name}}, []) for name in ("gpu-1", "b")]
    asked = replace(scheduling.needs(pod), requests={})
    assert [scheduling.misfit(asked, each) for each in found] == [None, "other labels"]


def near(*terms):
    return replace(TWO_GPUS, affinity=[[term] for term in terms])


@pytest.mark.parametrize(
    ("needs", "node", "reason"),
    [
        (TWO_GPUS, a_node(), None),
        (TWO_GPUS, a_node(gpu=1), "only 1 nvidia.com/gpu in all"),
        (TWO_GPUS, a_node(gpu=0), "no nvidia.com/gpu"),
        (TWO_GPUS, a_node(used={"nvidia.com/gpu": Decimal(7)}), "too few free nvidia.com/gpu"),
        (TWO_GPUS, a_node(used={"nvidia.com/gpu": Decimal(6)}), None),
        (TWO_GPUS, a_node(used={"pods": Decimal(110)}), "too few free pods"),
        (Needs({"memory": Decimal(65 * GIB)}), a_node(), "only 64Gi memory in all"),
        (
            Needs({"memory": Decimal(60 * GIB)}),
            a_node(used={"memory": Decimal(5 * GIB)}),
            "too little free memory",
        ),
        (TWO_GPUS, a_node(taints=[GPU_TAINT]), "taint nvidia.com/gpu=present"),
        (TWO_GPUS, a_node(taints=[replace(GPU_TAINT, effect="PreferNoSchedule")]), None),
        (
            TWO_GPUS,
            a_node(taints=[Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")]),
            "been cordoned",
        ),
        (
            tolerating(key="nvidia.com/gpu", operator="Exists"),
            a_node(taints=[GPU_TAINT]),
            None,
        ),
        (tolerating(operator="Exists"), a_node(taints=[GPU_TAINT]), None),
        (
            tolerating(key="nvidia.com/gpu", operator="Equal", value="present"),
            a_node(taints=[GPU_TAINT]),
            None,
        ),
        (tolerating(key="nvidia.com/gpu", value="present"), a_node(taints=[GPU_TAINT]), None),
        (
            tolerating(key="nvidia.com/gpu", value="other"),
            a_node(taints=[GPU_TAINT]),
            "taint nvidia.com/gpu=present",
        ),
        (
            tolerating(key="nvidia.com/gpu", operator="Exists", effect="NoExecute"),
            a_node(taints=[GPU_TAINT]),
            "taint nvidia.com/gpu=present",
        ),
        (replace(TWO_GPUS, selector={"pool": "a"}), a_node(labels={"pool": "b"}), "other labels"),
        (replace(TWO_GPUS, selector={"pool": "a"}), a_node(labels={"pool": "a"}), None),
        (
            near({"key": "gpu", "operator": "In", "values": ["h100", "h200"]}),
            a_node(labels={"gpu": "h200"}),
            None,
        ),
        (
            near({"key": "gpu", "operator": "In", "values": ["h100"]}),
            a_node(labels={"gpu": "t4"}),
            "other labels",
        ),
        (
            near({"key": "x", "operator": "Exists"}, {"key": "y", "operator": "Exists"}),
            a_node(labels={"y": ""}),
            None,
        ),
        (near({"key": "x", "operator": "DoesNotExist"}), a_node(), None),
        (
            near({"key": "x", "operator": "NotIn", "values": ["1"]}),
            a_node(labels={"x": "1"}),
            "other labels",
        ),
        (
            near({"key": "count", "operator": "Gt", "values": ["3"]}),
            a_node(labels={"count": "4"}),
            None,
        ),
        (
            near({"key": "count", "operator": "Lt", "values": ["3"]}),
            a_node(labels={"count": "4"}),
            "other labels",
        ),
    ],
)
def test_a_pod_fits_on_a_node_or_not(needs, node, reason):
    assert scheduling.misfit(needs, node) == reason


@pytest.mark.parametrize(
    ("text", "number"),
    [("2", 2), ("100m", Decimal("0.1")), ("1.5", Decimal("1.5")), ("8Gi", 8 * GIB), ("1e3", 1000)],
)
def test_quantities_are_read_as_kubernetes_writes_them(text, number):
    assert scheduling.quantity(text) == number


def test_what_a_pod_asks_for_is_the_sum_of_its_containers():
    def container(cpu):
        return {"resources": {"requests": {"cpu": cpu}}}

    spec = {
        "containers": [container("500m"), container("1"), {}],
        "initContainers": [container("3")],
    }
    assert scheduling.requests(spec) == {"cpu": 3, "pods": 1}


def test_the_sentence_counts_what_nodes_lack():
    taken = {"nvidia.com/gpu": Decimal(7)}
    nodes = [
        a_node("gpu-1", used=taken),
        a_node("gpu-2", used=taken),
        a_node("gpu-3", taints=[Taint("team", "vision", "NoSchedule")]),
    ]
    wishes = [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300},
    ]
    pod = replace(TWO_GPUS, tolerations=wishes)
    assert scheduling.wanted(pod) == "2 nvidia.com/gpu with toleration nvidia.com/gpu"
    lacks = "2 have too few free nvidia.com/gpu, 1 has taint team=vision"
    assert scheduling.verdict(pod, nodes) == (0, lacks)
    assert scheduling.verdict(pod, [*nodes, a_node()]) == (1, lacks)
