"""A values file of the chart, which is a recipe file, too: the recipe, and how the cluster runs it.

The chart's values.yaml and values.schema.json are made from here. Names are Kubernetes' own.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from qatune.config import Recipe, Section, Whole

RUN_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
"""Part of a key, a file name and the value of a label."""
_QUANTITY = r"^[0-9]+(\.[0-9]+)?([EPTGM]i?|Ki|k|m)?$"
_STORE = r"^s3://[A-Za-z0-9][A-Za-z0-9._-]*(/.*)?$"
_URL = r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?(/[^ @]*)?$"
"""Without user and password, which values do not hold."""
_IMAGE = r"^[^ ]+$"
_REGISTRY = r"^([A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._-]+)*/?)?$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_.-]*$"
_EXTENDED_RESOURCE = (
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
)
_TAG = r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"


ObjectName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)
]
Quantity = (
    Annotated[str, Field(pattern=_QUANTITY)]
    | Annotated[int, Field(ge=0)]
    | Annotated[float, Field(ge=0)]
)
Quantities = dict[str, Quantity]


class KubernetesSection(Section):
    model_config = ConfigDict(alias_generator=to_camel)


class Run(KubernetesSection):
    """What the run is called."""

    name: Annotated[str, Field(pattern=RUN_NAME)] | None = None
    """Name in the store. The release's, if not given; `qatune run` takes the file's."""
    attempt: Whole = Field(1, ge=1)
    """Raise it after a failure is mended: finished stages stay, the failed one goes on."""
    note: str = ""
    """Free text for people. Changing it restarts nothing."""


class CaBundle(KubernetesSection):
    """Certificates that the store's endpoint is checked with."""

    config_map: ObjectName | None = None
    """ConfigMap that holds them; none: those of the image."""
    key: str = "ca.crt"


class Store(KubernetesSection):
    """The bucket that the stages share."""

    uri: Annotated[str, Field(pattern=_STORE)] | None = None
    """`s3://bucket/prefix`. The chart needs it."""
    endpoint: Annotated[str, Field(pattern=_URL)] | None = None
    """URL of a server that is not Amazon's."""
    region: str | None = None
    secret: ObjectName | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. None: workload identity."""
    ca_bundle: CaBundle = CaBundle()


class Hub(KubernetesSection):
    """The model hub. Only preprocess talks to it: the other stages read its copy in the store."""

    secret: ObjectName | None = None
    """Secret with HF_TOKEN, for gated models."""
    endpoint: Annotated[str, Field(pattern=_URL)] | None = None
    """URL of a mirror."""


class ServiceAccount(KubernetesSection):
    """The account that pods run under. It has no rights in the cluster."""

    annotations: dict[str, str] = Field(default_factory=dict)
    """For workload identity, as `eks.amazonaws.com/role-arn`."""


class Image(KubernetesSection):
    """Where images come from: `<registry>/qatune-<stage>:<tag>`."""

    registry: Annotated[str, Field(pattern=_REGISTRY)] = ""
    tag: Annotated[str, Field(pattern=_TAG)] | None = None
    """The chart's version, if not given."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pull_secrets: tuple[ObjectName, ...] = ()


class Resources(KubernetesSection):
    """What a pod asks for, and what it may take at most. GPUs stand under `gpu`."""

    requests: Quantities = Field(default_factory=dict)
    limits: Quantities = Field(default_factory=dict)


class Gpu(KubernetesSection):
    """GPUs of each pod."""

    count: Whole = Field(0, ge=0)
    resource: Annotated[str, Field(pattern=_EXTENDED_RESOURCE)] = "nvidia.com/gpu"


class Toleration(KubernetesSection):
    """A taint that a pod bears."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Whole | None = None


class EnvVar(KubernetesSection):
    """A variable of the environment: a value, or where it comes from. No secret stands here."""

    name: Annotated[str, Field(pattern=_VARIABLE)]
    value: str | None = None
    value_from: dict[str, Any] | None = None


class Pod(KubernetesSection):
    """How the pods of a stage run, in Kubernetes' own terms."""

    image: Annotated[str, Field(pattern=_IMAGE)] | None = None
    """The whole name, best with a digest. None: made from `image`."""
    resources: Resources = Resources()
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    affinity: dict[str, Any] = Field(default_factory=dict)
    priority_class_name: ObjectName | None = None
    env: tuple[EnvVar, ...] = ()
    """More variables for the container."""
    pod_labels: dict[str, str] = Field(default_factory=dict)
    pod_annotations: dict[str, str] = Field(default_factory=dict)
    termination_grace_period_seconds: Whole = Field(60, ge=1)
    """Time to save what is done after SIGTERM."""


class Stage(Pod):
    """A stage's Job and its pods."""

    enabled: bool = True
    gpu: Gpu = Gpu()
    runtime_class_name: ObjectName | None = None
    shm_size: Quantity | None = None
    """Size of /dev/shm; none: the node's default of 64Mi."""
    scratch_size: Quantity | None = None
    """Limit of the pod's scratch disk, where models and rows lie; none: the node's own."""
    active_deadline_seconds: Annotated[Whole, Field(ge=1)] | None = None
    backoff_limit: Whole = Field(3, ge=0)
    """Failures that are retried, of each shard in generate. Interruptions do not count."""


class Sandbox(Pod):
    """The pod that answers are run in, two at a time. It is there where the recipe names tests."""

    runtime_class_name: ObjectName | None = None
    """As gVisor's or Kata's, for answers that may be hostile."""
    backoff_limit: Whole = Field(20, ge=0)
    """Ends that are made good by another pod."""


def _stage(cpu: str, memory: str, limit: str, **fields: Any) -> Stage:
    resources = Resources(requests={"cpu": cpu, "memory": memory}, limits={"memory": limit})
    return Stage(resources=resources, **fields)


class Stages(KubernetesSection):
    """The four stages, evaluate's sandbox, and the coordinator that releases them in order."""

    preprocess: Stage = _stage("2", "4Gi", "8Gi")
    train: Stage = _stage(
        "4", "16Gi", "32Gi", gpu=Gpu(count=1), shmSize="1Gi", terminationGracePeriodSeconds=300
    )
    generate: Stage = _stage("4", "16Gi", "32Gi", gpu=Gpu(count=1))
    execute: Sandbox = Sandbox(
        resources=Resources(requests={"cpu": "1", "memory": "1536Mi"}, limits={"memory": "1536Mi"}),
        terminationGracePeriodSeconds=15,
    )
    evaluate: Stage = _stage("1", "2Gi", "8Gi")
    coordinator: Pod = Pod(
        resources=Resources(requests={"cpu": "50m", "memory": "128Mi"}, limits={"memory": "256Mi"}),
        terminationGracePeriodSeconds=10,
    )


class Generate(KubernetesSection):
    """How the questions are divided among pods."""

    shards: Whole = Field(1, ge=1, le=100_000)
    """Pods that answer side by side, each its own share of the questions."""


class Train(KubernetesSection):
    """How training is divided among pods."""

    nodes: Whole = Field(1, ge=1)
    """Pods that train together, each with `stages.train.gpu.count` GPUs."""


class Kueue(KubernetesSection):
    """Queueing by Kueue, where the cluster has it."""

    queue: Annotated[ObjectName, Field(max_length=63)] | None = None
    """LocalQueue that the stages wait in. None: Kueue is not used."""


class NetworkPolicy(KubernetesSection):
    """What the pods may talk to."""

    enabled: bool = True
    store: tuple[dict[str, Any], ...] = ()
    """NetworkPolicyPeers of the store. None: any address, at the store's port only."""
    extra_egress: tuple[dict[str, Any], ...] = ()
    """More NetworkPolicyEgressRules for every stage, as for a metadata server."""


class Values(KubernetesSection):
    """A training run: what it does, and how the cluster runs it."""

    run: Run = Run()
    recipe: Recipe
    store: Store = Store()
    hub: Hub = Hub()
    service_account: ServiceAccount = ServiceAccount()
    image: Image = Image()
    stages: Stages = Stages()
    generate: Generate = Generate()
    train: Train = Train()
    kueue: Kueue = Kueue()
    network_policy: NetworkPolicy = NetworkPolicy()
