"""k8s/ as files: what a platform team applies once, and the values of its GPU pools."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from tests.support.chart import CHART, RECIPE, STAGES, container, helm, of, pods, render, sets
from tests.support.manifests import K8S, POOLS, amount, objects, one, validate

from qatune.values import Values

CRDS = Path(__file__).with_name("kueue-crds.yaml")


def closed(schema):
    """Refuse fields that the schema does not know, as `kubectl apply` does."""
    if not isinstance(schema, dict):
        return [closed(each) for each in schema] if isinstance(schema, list) else schema
    found = {name: closed(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict):
        found["additionalProperties"] = False
    return found


@pytest.fixture(scope="module")
def kueue_schemas():
    return {
        crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for crd in yaml.safe_load_all(CRDS.read_text())
    }


@pytest.mark.parametrize("folder", ["base", "s3-trial"])
def test_every_object_is_what_kubernetes_knows(folder):
    for each in objects(folder):
        validate(each)


def test_the_queues_are_what_kueue_knows(kueue_schemas):
    found = objects("kueue")
    assert {each["kind"] for each in found} == set(kueue_schemas)
    for each in found:
        assert each["apiVersion"] == "kueue.x-k8s.io/v1beta2"
        schema = closed(kueue_schemas[each["kind"]])
        schema["properties"]["metadata"] = {"type": "object"}
        jsonschema.validate(each, schema)


def test_a_field_of_the_former_api_is_refused(kueue_schemas):
    queue = one("kueue", "ClusterQueue")
    queue["spec"]["cohort"] = "all"
    with pytest.raises(jsonschema.ValidationError, match="cohort"):
        jsonschema.validate(queue, closed(kueue_schemas["ClusterQueue"]))


def test_the_namespace_is_restricted():
    labels = one("base", "Namespace")["metadata"]["labels"]
    assert labels == {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
    }


def requests(job):
    """Return what all pods of a Job ask for together."""
    asked = container(job)["resources"]["requests"]
    count = job["spec"].get("parallelism", 1)
    return {name: amount(quantity) * count for name, quantity in asked.items()}


@pytest.fixture(scope="module")
def wide():
    """A run as wide as the quota should bear several of."""
    return of(render("train.nodes=2", "generate.shards=4"), "Job")


def test_several_runs_fit_the_quota(wide):
    hard = {
        name: amount(value) for name, value in one("base", "ResourceQuota")["spec"]["hard"].items()
    }
    runs = 3
    coordinator = requests(wide["coordinator"])
    for stage in STAGES:
        for resource, asked in requests(wide[stage]).items():
            together = asked + coordinator.get(resource, 0)
            assert runs * together <= hard[f"requests.{resource}"], (stage, resource)
        assert runs * (wide[stage]["spec"].get("parallelism", 1) + 1) <= hard["pods"]
    assert runs * len(wide) <= hard["count/jobs.batch"]


def test_default_limits_leave_the_pods_of_a_run_alone(wide):
    (limits,) = one("base", "LimitRange")["spec"]["limits"]
    assert set(limits) == {"type", "defaultRequest", "default"}
    assert amount(limits["defaultRequest"]["memory"]) <= amount(limits["default"]["memory"])
    assert "cpu" not in limits["default"]
    for job in wide.values():
        resources = container(job)["resources"]
        assert set(limits["defaultRequest"]) <= set(resources["requests"])
        assert set(limits["default"]) <= set(resources["limits"])


def pool_values(pool):
    """Lay a pool's file over a recipe, as Helm does with a second -f."""
    return merged(yaml.safe_load(RECIPE.read_text()), yaml.safe_load(pool.read_text()))


def merged(below, above):
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {name: merged(below.get(name, {}), value) for name, value in above.items()}


def with_pool(pool, *settings):
    text = helm("template", "run-1", CHART, "-f", RECIPE, "-f", pool, *sets(*settings))
    return [each for each in yaml.safe_load_all(text) if each]


def test_there_is_a_file_for_every_usual_pool():
    assert [pool.stem for pool in POOLS] == ["aks", "bare-metal", "eks", "gke"]


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.stem)
def test_a_pool_is_for_gpu_stages_only(pool):
    stages = Values.model_validate(pool_values(pool)).stages
    assert stages.train == stages.generate
    assert stages.train.node_selector
    found = with_pool(pool)
    for each in found:
        validate(each)
    for name, pod in pods(found).items():
        # `helm test` looks from any node: it must not wait for a pool that scales from zero.
        gpu = "-test-" not in name and ("-train-" in name or "-generate-" in name)
        assert bool(pod.get("nodeSelector")) == gpu, name
        assert bool(pod.get("tolerations")) == gpu, name


def tolerates(pod, taint):
    return any(
        each.get("key") == taint["key"]
        and each.get("effect") in {None, taint["effect"]}
        and (each.get("operator") == "Exists" or each.get("value") == taint["value"])
        for each in pod.get("tolerations", [])
    )


def admitted_by(job):
    """Return the flavor that Kueue gives a Job: the first with room whose taints it tolerates."""
    (group,) = one("kueue", "ClusterQueue")["spec"]["resourceGroups"]
    asked = requests(job)
    assert set(asked) <= set(group["coveredResources"])
    for flavor in group["flavors"]:
        taints = one("kueue", "ResourceFlavor", flavor["name"]).get("spec", {}).get("nodeTaints")
        quota = {each["name"]: amount(each["nominalQuota"]) for each in flavor["resources"]}
        pod = job["spec"]["template"]["spec"]
        if all(tolerates(pod, taint) for taint in taints or []) and all(
            value <= quota[name] for name, value in asked.items()
        ):
            return flavor["name"]
    return None


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.stem)
def test_kueue_admits_every_stage_where_it_belongs(pool):
    queue = one("kueue", "LocalQueue")["metadata"]["name"]
    settings = (f"kueue.queue={queue}", "train.nodes=2", "generate.shards=4")
    jobs = of(with_pool(pool, *settings), "Job")
    assert {stage: admitted_by(jobs[stage]) for stage in STAGES} == {
        "preprocess": "cpu", "train": "gpu", "generate": "gpu", "evaluate": "cpu",
    }  # fmt: skip


def test_the_queue_is_that_of_the_namespace():
    namespace = one("base", "Namespace")["metadata"]["name"]
    selector = one("kueue", "ClusterQueue")["spec"]["namespaceSelector"]
    assert selector["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    local = one("kueue", "LocalQueue")
    assert local["metadata"]["namespace"] == namespace
    assert local["spec"]["clusterQueue"] == one("kueue", "ClusterQueue")["metadata"]["name"]


def test_the_trial_s3_is_found_and_reached_by_runs():
    policy, service = one("s3-trial", "NetworkPolicy")["spec"], one("s3-trial", "Service")
    labels = one("s3-trial", "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == policy["podSelector"]["matchLabels"] == labels
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    run_labels = of(render(), "Job", "train")["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= run_labels.items()
    said = (K8S / "s3-trial" / "kustomization.yaml").read_text()
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert f"http://{name}:{port}" in said


def test_the_trial_s3_has_an_exact_image_and_no_secret_of_its_own():
    (server,) = one("s3-trial", "StatefulSet")["spec"]["template"]["spec"]["containers"]
    tag = server["image"].rpartition(":")[2]
    assert tag.replace(".", "").isdigit()
    assert {each["valueFrom"]["secretKeyRef"]["name"] for each in server["env"]} == {"s3-keys"}
    assert not [each for each in objects("s3-trial") if each["kind"] == "Secret"]
