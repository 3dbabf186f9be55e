"""The sandbox that answers are run in: a pod that has nothing, beside evaluate."""

import json

import pytest
from tests.support.chart import STAGES, TESTED, container, env, of, pods, refusal, render
from tests.support.manifests import validate

FULL = (
    TESTED, "kueue.queue=gpus", "store.secret=s3-keys", "hub.secret=hub", "store.region=x",
    "store.caBundle.configMap=ca", "image.pullSecrets={pull}",
    "serviceAccount.annotations.role=arn", "networkPolicy.store[0].ipBlock.cidr=10.0.0.0/8",
    "networkPolicy.extraEgress[0].ports[0].port=80", "stages.execute.runtimeClassName=gvisor",
    "stages.execute.nodeSelector.pool=untrusted", "stages.execute.env[0].name=A",
    "stages.execute.env[0].value=b",
)  # fmt: skip


@pytest.fixture(scope="module")
def objects():
    return render(*FULL)


@pytest.fixture(scope="module")
def job(objects):
    return of(objects, "Job", "execute")


@pytest.mark.parametrize("settings", [(TESTED,), FULL], ids=["plain", "full"])
def test_every_object_is_what_kubernetes_knows(settings):
    for each in render(*settings):
        validate(each)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        (TESTED, "recipe.generate.input=s3://bucket/asked.csv"),
        (TESTED, "stages.evaluate.enabled=false"),
    ],
)
def test_it_is_there_only_where_answers_are_run(settings):
    assert "execute" not in json.dumps(render(*settings)).replace('"execute":', "")


def test_it_has_nothing(job, objects):
    pod = job["spec"]["template"]["spec"]
    assert "volumes" not in pod
    assert "volumeMounts" not in container(job)
    assert pod["automountServiceAccountToken"] is False
    assert set(env(job)) == {"POD_IP", "A"}
    assert not {"s3", "secret", "configMap"} & set(json.dumps(job["spec"]).split('"'))
    account = next(
        each
        for each in objects
        if each["kind"] == "ServiceAccount" and each["metadata"]["name"] == "run-1-execute"
    )
    assert pod["serviceAccountName"] == "run-1-execute"
    assert "annotations" not in account["metadata"]  # so no cloud gives it an identity
    assert account["automountServiceAccountToken"] is False
    bound = [each["subjects"] for each in objects if each["kind"] == "RoleBinding"]
    assert [subject["name"] for (subject,) in bound] == ["run-1-coordinator"]


def test_its_pod_is_restricted(job):
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(job)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container(job)["resources"]["limits"]["memory"]
    assert (pod["runtimeClassName"], pod["nodeSelector"]) == ("gvisor", {"pool": "untrusted"})


def test_its_network_is_closed_but_for_who_asks_it(objects):
    policy = of(objects, "NetworkPolicy", "execute")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []  # not even names, nor what every stage may reach besides
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": 8021, "protocol": "TCP"}]
    asks = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for peer in rule["from"]]  # fmt: skip
    assert asks == ["evaluate", "coordinator"]
    for name, each in of(objects, "NetworkPolicy").items():
        reaches = [rule for rule in each["spec"]["egress"] if "8021" in json.dumps(rule)]
        assert len(reaches) == (name in asks), name
        if reaches:
            (peer,) = reaches[0]["to"]
            assert peer["podSelector"]["matchLabels"] == policy["podSelector"]["matchLabels"]
    off = render(*FULL, "networkPolicy.enabled=false")
    assert not [each for each in off if each["kind"] == "NetworkPolicy"]


def test_evaluate_and_the_coordinator_find_it_by_its_service(job, objects):
    (service,) = [each for each in objects if each["kind"] == "Service"]
    name = job["metadata"]["name"]
    assert service["metadata"]["name"] == name
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    url = f"http://{name}:8021"
    assert env(of(objects, "Job", "evaluate"))["QATUNE_SANDBOX"]["value"] == url
    arguments = container(of(objects, "Job", "coordinator"))["args"]
    assert f"--sandbox={url}" in arguments
    told = [each.split("=")[1] for each in arguments if each.startswith("--job=")]
    assert told == ["preprocess", "train", "generate", "execute", "evaluate"]
    (role,) = [each for each in objects if each["kind"] == "Role"]
    assert name in role["rules"][0]["resourceNames"]
    assert container(job)["args"][0] == "sandbox"


def test_it_waits_for_the_coordinator_and_for_kueue(job):
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["annotations"] == {"qatune/after": "generate", "qatune/queue": "gpus"}
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "qatune-parked"
    alone = [f"stages.{stage}.enabled=false" for stage in STAGES[:3]]
    first = of(render(TESTED, *alone), "Job", "execute")
    assert not first["metadata"].get("annotations")


def test_no_pod_of_a_stage_has_its_account(objects):
    for name, pod in pods(objects).items():
        assert (pod["serviceAccountName"] == "run-1-execute") == ("-execute-" in name)


def test_memory_for_two_answers_is_there():
    wrong = refusal(TESTED, "recipe.execute.memory_mb=1024")
    assert "need 2304Mi with their server, more than the limit of 1536Mi" in wrong
    render(TESTED, "recipe.execute.memory_mb=1024", "stages.execute.resources.limits.memory=3Gi")


def test_names_fit_for_the_longest_release():
    for each in render(TESTED, name="r" * 52 + "x"):
        assert len(each["metadata"]["name"]) + len("-99999") <= 63
