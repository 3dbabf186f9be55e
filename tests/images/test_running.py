"""Each image on a real cluster: user 10001, a read-only root, nothing but scratch to write to."""

import json
import os
import tomllib
from pathlib import Path

import pytest
from tests.support import e2e
from tests.support.waiting import wait_for

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
MODULES = {
    "base": ("boto3", "kubernetes"),
    "preprocess": (
        "datasets",
        "transformers",
        "matplotlib",
        "rouge_score",
        "sacrebleu",
        "kubernetes",
    ),
    "train": ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "tensorboard"),
    "generate": ("torch", "transformers", "peft", "bitsandbytes"),
}
ABSENT = ("gcc", "cc", "git", "/opt/qatune/bin/pip")
STAGES = {
    "preprocess": ("preprocess", "evaluate"),
    "train": ("train",),
    "generate": ("generate",),
}


@pytest.fixture(scope="module")
def namespace():
    """A namespace in which all pods have been started at once; each test waits for its own."""
    e2e.require()
    made = e2e.namespace()
    found = next(made)
    for image in MODULES:
        start(found, pod(f"version-{image}", image, args=["--version"]))
        start(found, pod(f"inside-{image}", image, command=["sh", "-c", inspection(image)]))
    yield found
    made.close()


def start(namespace, manifest):
    namespace.kubectl("create", "--filename", "-", stdin=json.dumps(manifest))


def inspection(image):
    """Return a shell script that shows, line by line, what the image is."""
    doctor = [f"qatune doctor {stage} --store /tmp/store" for stage in STAGES.get(image, ())]
    return "\n".join(
        [
            "set -eu",
            "qatune --version",
            "id -u",
            "touch /opt/x 2>&1 || true",
            f"for each in {' '.join(ABSENT)}; do command -v $each || echo no $each; done",
            *doctor,
            f"python -W error::ImportWarning -c 'import {', '.join(MODULES[image])}'",
            # What importing wrote, had it had to compile.
            "find / -xdev -name '*.pyc' -newer /proc/1 2>/dev/null | wc -l",
            "echo all of it",
        ]
    )


def pod(name, image, **container):
    registry, _, tag = os.environ["QATUNE_E2E_IMAGES"].rpartition(":")
    mounts = [{"name": "scratch", "mountPath": path} for path in ("/scratch", "/tmp")]
    rights = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            # No user is named: it is the image's own, whose number the kubelet can check.
            "securityContext": {
                "runAsNonRoot": True,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "image",
                    "image": f"{registry}qatune-{image}:{tag}",
                    "securityContext": rights,
                    "volumeMounts": mounts,
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "256Mi"},
                        "limits": {"memory": "3Gi"},
                    },
                    **container,
                }
            ],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }


def said(namespace, name):
    """Wait for a pod's end; return its output."""

    def ended():
        phase = namespace.get("pod", name)["status"]["phase"]
        return phase if phase in {"Succeeded", "Failed"} else None

    phase = wait_for(f"the end of {name}", 120, ended)
    output = namespace.kubectl("logs", name).stdout
    assert phase == "Succeeded", output
    return output.splitlines()


@pytest.mark.parametrize("image", MODULES)
def test_an_image_asked_for_its_version_gives_it(namespace, image):
    output = said(namespace, f"version-{image}")
    assert output == [f"qatune, version {PROJECT['version']}"]


@pytest.mark.parametrize("image", MODULES)
def test_an_image_has_what_its_stages_need_and_no_more(namespace, image):
    output = said(namespace, f"inside-{image}")
    assert output[1:3] == ["10001", "touch: cannot touch '/opt/x': Read-only file system"]
    assert output[3:7] == [f"no {each}" for each in ABSENT]
    for stage in STAGES.get(image, ()):
        assert f"libraries of {stage}: load" in output
    assert output[-2:] == ["0", "all of it"]
