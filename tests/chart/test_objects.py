"""The objects of a run, as the cluster gets them."""

import json
import re

import pytest
import yaml
from tests.support.chart import (
    CHART,
    RECIPE,
    STAGES,
    container,
    env,
    helm,
    of,
    pods,
    render,
    sets,
)
from tests.support.manifests import validate

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
TERM = f"nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0]"
FULL = (
    "train.nodes=2", "generate.shards=3", "kueue.queue=gpus", "store.secret=s3-keys",
    "store.endpoint=http://minio.storage:9000", "store.region=eu-central-1", "hub.secret=hub",
    "store.caBundle.configMap=ca", "image.registry=registry.example/team", "image.tag=1.2",
    "image.pullSecrets={pull}", "stages.train.runtimeClassName=nvidia",
    "stages.train.priorityClassName=batch", "stages.train.nodeSelector.pool=gpu",
    "stages.train.tolerations[0].key=nvidia.com/gpu", "stages.train.tolerations[0].operator=Exists",
    f"stages.train.affinity.{TERM}.key=zone", f"stages.train.affinity.{TERM}.operator=Exists",
    "stages.train.gpu.count=2", "stages.train.scratchSize=50Gi", "stages.train.env[0].name=A",
    "stages.train.env[0].value=b", "stages.train.podLabels.team=ml",
    "stages.train.podAnnotations.note=x", "stages.train.activeDeadlineSeconds=3600",
    "serviceAccount.annotations.role=arn", "run.note=first",
    "networkPolicy.store[0].ipBlock.cidr=10.0.0.0/8",
)  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return render()


@pytest.fixture(scope="module")
def full():
    return render(*FULL)


@pytest.mark.parametrize("settings", [(), FULL], ids=["plain", "full"])
def test_every_object_is_what_kubernetes_knows(settings):
    for each in render(*settings):
        validate(each)


def test_the_stages_wait_for_each_other(plain):
    jobs = of(plain, "Job")
    assert sorted(jobs) == sorted([*STAGES, "coordinator"])
    after = {
        name: job["metadata"].get("annotations", {}).get("qatune/after")
        for name, job in jobs.items()
        if name != "coordinator"
    }
    assert after == {
        "preprocess": None, "train": "preprocess", "generate": "train", "evaluate": "generate",
    }  # fmt: skip
    assert {jobs[name]["spec"]["suspend"] for name in STAGES} == {True}
    assert "suspend" not in jobs["coordinator"]["spec"]
    told = [each for each in container(jobs["coordinator"])["args"] if each.startswith("--job=")]
    assert told == [f"--job={name}={jobs[name]['metadata']['name']}" for name in STAGES]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("recipe.generate.adapter=none",), ["preprocess", "generate", "evaluate"]),
        (("stages.evaluate.enabled=false",), ["preprocess", "train", "generate"]),
    ],
)
def test_what_a_run_does_not_need_is_not_there(settings, expected):
    jobs = of(render(*settings), "Job")
    assert sorted(jobs) == sorted([*expected, "coordinator"])
    order = [jobs[name]["metadata"]["annotations"].get("qatune/after") for name in expected]
    assert order == [None, *expected[:-1]]


def test_only_the_coordinator_may_do_anything(plain):
    (role,) = [each for each in plain if each["kind"] == "Role"]
    names = sorted(job["metadata"]["name"] for job in of(plain, "Job").values())
    (own,) = [name for name in names if "coordinator" in name]
    stages = [name for name in names if name != own]
    assert role["rules"] == [
        {"apiGroups": ["batch"], "resources": ["jobs"], "resourceNames": stages,
         "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["events"], "resourceNames": [own],
         "verbs": ["create", "patch"]},
    ]  # fmt: skip
    (binding,) = [each for each in plain if each["kind"] == "RoleBinding"]
    assert [each["name"] for each in binding["subjects"]] == ["run-1-coordinator"]
    assert not [each for each in plain if each["kind"].startswith("Cluster")]
    for name, pod in pods(plain).items():
        coordinator = "coordinator" in name
        account = "run-1-coordinator" if coordinator else "run-1"
        assert pod["serviceAccountName"] == account
        assert coordinator or pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("settings", [(), FULL], ids=["plain", "full"])
def test_every_pod_is_restricted(settings):
    for name, pod in pods(render(*settings)).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["restartPolicy"] == "Never"
        (only,) = pod["containers"]
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} <= {
            "emptyDir", "configMap",
        }  # fmt: skip


def test_secrets_are_only_referred_to(full):
    jobs = of(full, "Job")
    for name in (*STAGES, "coordinator"):
        found = env(jobs[name])
        assert found["AWS_SECRET_ACCESS_KEY"]["valueFrom"] == {
            "secretKeyRef": {"name": "s3-keys", "key": "AWS_SECRET_ACCESS_KEY"}
        }
        assert ("HF_TOKEN" in found) == (name == "preprocess")
    assert not [each for each in full if each["kind"] == "Secret"]


def test_without_a_secret_the_pods_identity_is_used(plain):
    assert not [name for name in env(of(plain, "Job", "train")) if name.startswith("AWS_")]
    accounts = of(render("serviceAccount.annotations.role=arn"), "ServiceAccount")
    assert {each["metadata"]["annotations"]["role"] for each in accounts.values()} == {"arn"}


def failure_rules(job):
    return {
        (rule["action"], tuple(rule.get("onExitCodes", {}).get("values", ["disruption"])))
        for rule in job["spec"]["podFailurePolicy"]["rules"]
    }


def test_exit_codes_mean_what_they_say(plain):
    jobs = of(plain, "Job")
    for name in STAGES:
        fails = "FailIndex" if name == "generate" else "FailJob"
        assert failure_rules(jobs[name]) == {
            ("Ignore", (75,)), (fails, (64, 65, 66, 77, 78)), ("Ignore", ("disruption",)),
        }  # fmt: skip
        for rule in jobs[name]["spec"]["podFailurePolicy"]["rules"]:
            assert rule.get("onExitCodes", {}).get("containerName", name) == name


def test_what_a_pool_needs_reaches_its_pods(full):
    job = of(full, "Job", "train")
    template, pod = job["spec"]["template"], job["spec"]["template"]["spec"]
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["priorityClassName"] == "batch"
    assert pod["nodeSelector"] == {"pool": "gpu"}
    (toleration,) = pod["tolerations"]
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists"}
    term = {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}
    assert pod["affinity"] == {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}}
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["terminationGracePeriodSeconds"] == 300
    assert job["spec"]["activeDeadlineSeconds"] == 3600
    assert template["metadata"]["labels"]["team"] == "ml"
    assert template["metadata"]["annotations"] == {"note": "x"}
    assert env(job)["A"] == {"name": "A", "value": "b"}
    other = of(full, "Job", "generate")["spec"]["template"]["spec"]
    assert not {"runtimeClassName", "nodeSelector", "tolerations", "affinity"} & set(other)


def volumes(job):
    pod = job["spec"]["template"]["spec"]
    places = {each["mountPath"]: each["name"] for each in container(job)["volumeMounts"]}
    found = {each["name"]: each for each in pod["volumes"]}
    return {path: found[name] for path, name in places.items()}


def test_scratch_shared_memory_and_certificates_are_mounted(plain, full):
    few, all_ = volumes(of(plain, "Job", "generate")), volumes(of(full, "Job", "train"))
    assert set(few) == {"/scratch", "/tmp", "/etc/qatune"}
    assert few["/scratch"] == few["/tmp"] == {"name": "scratch", "emptyDir": {}}
    assert all_["/scratch"]["emptyDir"] == {"sizeLimit": "50Gi"}
    assert all_["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert all_["/etc/qatune-ca"]["configMap"] == {"name": "ca"}
    assert env(of(full, "Job", "train"))["AWS_CA_BUNDLE"]["value"] == "/etc/qatune-ca/ca.crt"


def test_gpus_are_asked_for_where_they_are_used(plain, full):
    gpu = {
        name: container(job)["resources"]["limits"].get("nvidia.com/gpu")
        for name, job in of(plain, "Job").items()
    }
    assert gpu == {
        "preprocess": None, "train": 1, "generate": 1, "evaluate": None, "coordinator": None,
    }  # fmt: skip
    train = container(of(full, "Job", "train"))
    assert train["resources"]["requests"]["nvidia.com/gpu"] == 2
    none = container(of(render("stages.train.gpu.count=0"), "Job", "train"))
    assert "nvidia.com/gpu" not in json.dumps(none["resources"])
    other = container(of(render("stages.train.gpu.resource=amd.com/gpu"), "Job", "train"))
    assert other["resources"]["limits"]["amd.com/gpu"] == 1


def test_a_training_over_two_nodes(full):
    job = of(full, "Job", "train")
    name, spec = job["metadata"]["name"], job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["backoffLimit"] == 6
    assert spec["template"]["spec"]["subdomain"] == name
    (service,) = [each for each in full if each["kind"] == "Service"]
    assert service["metadata"]["name"] == name
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    found = {key: value.get("value") for key, value in env(job).items()}
    assert (found["QATUNE_NODES"], found["QATUNE_PROCESSES"]) == ("2", "2")
    assert found["MASTER_ADDR"] == f"{name}-0.{name}"
    assert found["QATUNE_MEETING_TIMEOUT"] == "86400"


def test_a_training_on_one_node_needs_no_service(plain):
    assert not [each for each in plain if each["kind"] == "Service"]
    assert "completionMode" not in of(plain, "Job", "train")["spec"]
    assert not {"MASTER_ADDR", "QATUNE_MEETING_TIMEOUT"} & set(env(of(plain, "Job", "train")))


def test_shards_stand_for_themselves_and_cost_the_cluster_nothing_more(full):
    spec = of(full, "Job", "generate")["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["backoffLimitPerIndex"] == 3
    assert "backoffLimit" not in spec
    few, many = json.dumps(render("generate.shards=100")), json.dumps(render("generate.shards=999"))
    assert abs(len(many) - len(few)) < 20


def test_kueue_gets_a_parked_job(plain, full):
    for name in STAGES:
        metadata = of(full, "Job", name)["metadata"]
        assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "qatune-parked"
        assert metadata["annotations"]["qatune/queue"] == "gpus"
    assert "--queue=gpus" in container(of(full, "Job", "coordinator"))["args"]
    assert "kueue" not in json.dumps(plain)


def test_images(plain, full):
    assert container(of(plain, "Job", "train"))["image"] == "qatune-train:0.1.0"
    assert container(of(full, "Job", "evaluate"))["image"] == (
        "registry.example/team/qatune-preprocess:1.2"
    )
    digest = "registry.example/qatune-train@sha256:" + "0" * 64
    train = of(render(f"stages.train.image={digest}"), "Job", "train")
    assert container(train)["image"] == env(train)["QATUNE_IMAGE"]["value"] == digest


def egress(objects, component):
    return of(objects, "NetworkPolicy", component)["spec"]["egress"]


def test_only_preprocess_reaches_beyond_the_store(plain, full):
    policies = of(plain, "NetworkPolicy")
    assert sorted(policies) == sorted([*STAGES, "coordinator", "test"])
    for name, policy in policies.items():
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert not policy["spec"].get("ingress")
        assert ({} in policy["spec"]["egress"]) == (name == "preprocess")
    dns, store = egress(full, "generate")
    assert {port["port"] for port in dns["ports"]} == {53}
    assert store == {
        "ports": [{"port": 9000, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    }
    assert egress(plain, "generate")[1] == {"ports": [{"port": 443, "protocol": "TCP"}]}
    peers = of(full, "NetworkPolicy", "train")["spec"]
    assert peers["ingress"][0]["from"] == peers["egress"][-1]["to"]
    assert not [e for e in render("networkPolicy.enabled=false") if e["kind"] == "NetworkPolicy"]


def names(objects):
    return {each["metadata"]["name"] for each in objects}


@pytest.mark.parametrize(
    "setting", ["run.note=other", "networkPolicy.enabled=true", "serviceAccount.annotations.a=b"]
)
def test_a_note_or_a_policy_changes_no_job(plain, setting):
    assert names(render(setting)) == names(plain)


@pytest.mark.parametrize(
    "setting",
    ["recipe.train.seed=7", "run.attempt=2", "run.name=other", "generate.shards=2",
     "stages.train.image=other:1", "store.region=x", "stages.train.env[0].name=A"],
)  # fmt: skip
def test_another_spec_is_another_job(plain, setting):
    jobs = {job["metadata"]["name"] for job in of(plain, "Job").values()}
    assert not jobs & names(render(setting))


def test_names_fit_for_the_longest_release():
    objects = render("generate.shards=999", "train.nodes=2", name="r" * 52 + "x")
    for each in objects:
        name = each["metadata"]["name"]
        assert len(name) + len("-999") <= 63, name
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)


@pytest.mark.parametrize("release", ["2026-run", "2" * 53, "2.6"])
def test_a_service_s_name_begins_with_a_letter(release):
    objects = render("train.nodes=2", name=release)
    (service,) = [each for each in objects if each["kind"] == "Service"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", service["metadata"]["name"])
    assert all(len(name) + len("-999") <= 63 for name in names(objects))


def test_two_releases_never_meet_in_a_name():
    for one, other in (("a.b", "a-b"), ("2-a", "run-2-a"), ("r" * 40 + "1", "r" * 40 + "2")):
        shared = names(render(name=one)) & names(render(name=other))
        assert not shared


def test_names_of_digits_are_names():
    given = ("store.secret=123", "kueue.queue=456", "hub.secret=7", "image.pullSecrets[0]=8")
    given += ("stages.train.priorityClassName=9", "stages.train.runtimeClassName=10")
    texts = sets(*given, flag="--set-string")
    found = helm("template", "123", CHART, "--namespace", "456", "-f", RECIPE, *texts)
    for each in yaml.safe_load_all(found):
        validate(each)


def test_a_test_asks_for_no_pool(full):
    tests = {name: pod for name, pod in pods(full).items() if "-test-" in name}
    assert sorted(tests) == sorted(f"run-1-test-{stage}" for stage in STAGES)
    for pod in tests.values():
        assert not {"nodeSelector", "tolerations", "runtimeClassName", "priorityClassName"} & set(
            pod
        )
        assert "nvidia.com/gpu" not in json.dumps(pod["containers"][0]["resources"])


def test_a_release_with_dots_still_has_names_of_pods():
    for each in render(name="llama.v1"):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", each["metadata"]["name"])


def test_notes_say_how_to_watch_it_and_where_the_result_will_lie():
    install = ("install", "r", CHART, "-f", RECIPE, "--dry-run=client", "--namespace", "team")
    given = sets("store.uri=s3://bucket/prefix/", "run.name=llama")
    notes = helm(*install, *given).split("NOTES:")[1]
    assert "qatune status llama --namespace team" in notes
    assert "s3://bucket/prefix/runs/llama/evaluate/report.html" in notes
    assert "preprocess -> train -> generate -> evaluate" in notes
    assert "--reset-then-reuse-values --set run.attempt=2" in notes
    less = ("--set", "recipe.generate.adapter=none", "--set", "stages.evaluate.enabled=false")
    notes = helm(*install, *given, *less).split("NOTES:")[1]
    assert "runs/llama/generate/parts/" in notes
    assert "report.html" not in notes
    assert "train/adapter/" not in notes
