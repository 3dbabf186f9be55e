"""What the Dockerfiles promise, read from them; how `make images` builds them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ("base", "preprocess", "train", "generate")
DOCKERFILES = [*(ROOT / "images" / name / "Dockerfile" for name in IMAGES)]
DOCKERFILES += [ROOT / "tests" / "k8s" / "seaweed" / "Dockerfile"]


def name_of(path):
    return path.parent.name


def test_every_dockerfile_is_known_here():
    assert sorted(ROOT.glob("images/**/Dockerfile*")) == sorted(DOCKERFILES[:-1])


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_hadolint_has_nothing_to_say(path):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_a_rule_is_ignored_with_a_reason(path):
    text = path.read_text()
    ignored = set(re.findall(r"^# hadolint ignore=.*$", text, re.MULTILINE))
    # Once a file: what follows may repeat it.
    explained = set(re.findall(r"^# [A-Z].*\n(# hadolint ignore=.*)$", text, re.MULTILINE))
    assert ignored == explained


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_an_image_ends_as_a_user_without_rights(path):
    users = [line for line in path.read_text().splitlines() if line.startswith("USER ")]
    assert users[-1] == "USER 10001:10001"


@pytest.mark.parametrize("path", DOCKERFILES[:-1], ids=name_of)
def test_an_image_says_what_it_is(path):
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', path.read_text()))
    assert labels.pop("description").startswith("qatune: ")
    assert labels == {
        "title": f"qatune-{name_of(path)}", "licenses": "Apache-2.0",
        "version": "${VERSION}", "revision": "${REVISION}",
    }  # fmt: skip


def test_signals_reach_the_stage_through_tini():
    lines = [line for path in DOCKERFILES[:-1] for line in path.read_text().splitlines()]
    entries = [line for line in lines if line.startswith(("ENTRYPOINT", "CMD"))]
    assert entries == ['ENTRYPOINT ["tini", "--", "qatune"]']  # the others have it of their parent


def test_base_images_have_exact_tags():
    (cuda,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILES[0].read_text(), re.MULTILINE)
    (slim,) = re.findall(
        r"^CPU_BASE_IMAGE := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    for image in (cuda, slim):
        assert re.fullmatch(
            r"docker\.io/[a-z/]+:\d+\.\d+\.\d+-[\w.-]+(@sha256:[0-9a-f]{64})?", image
        )


def test_an_image_gets_the_extras_that_its_stages_need():
    """Those of pyproject.toml, read as the build reads them."""
    path = ROOT / "pyproject.toml"
    project = tomllib.loads(path.read_text())["project"]
    done = subprocess.run(
        [sys.executable, ROOT / "images" / "requirements.py", path, "train", "cluster"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    extras = project["optional-dependencies"]
    assert done.stdout.splitlines() == project["dependencies"] + extras["train"] + extras["cluster"]


@pytest.fixture
def tools(tmp_path):
    """Make programs that answer as docker, podman and buildah do, or do not."""

    def make(*answering):
        for name in ("docker", "podman", "buildah"):
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\nexit {int(name not in answering)}\n")
            path.chmod(0o755)
        return tmp_path

    return make


def dry(folder, *settings, code=0):
    """Say what `make images` would run."""
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}
    done = subprocess.run(
        ["make", "--dry-run", "images", *settings],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    text = done.stdout.replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines()] if code == 0 else done.stderr


@pytest.mark.parametrize(
    ("answering", "used"),
    [(("docker", "podman", "buildah"), "docker"), (("podman", "buildah"), "podman"),
     (("buildah",), "buildah")],
)  # fmt: skip
def test_whichever_tool_answers_builds(tools, answering, used):
    lines = dry(tools(*answering))
    assert len(lines) == 1 + len(IMAGES)
    assert all(line.startswith(f"{used} build --tag qatune-") for line in lines)
    assert all(line.endswith(" .") for line in lines)


def test_without_a_tool_it_says_so(tools):
    assert "neither docker, podman nor buildah answers here" in dry(tools(), code=2)


def test_the_cpu_variant_differs_by_arguments_alone(tools):
    folder = tools("podman")
    cuda, cpu = dry(folder, "REGISTRY=r.example/team/"), dry(folder, "VARIANT=cpu", "TAG=7")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    train = f"podman build --tag r.example/team/qatune-train:{version} -f images/train/Dockerfile"
    (said,) = [line for line in cuda if line.startswith(train)]
    assert f"PARENT_IMAGE=r.example/team/qatune-dependencies:{version} " in said
    assert "TORCH_INDEX= " in said
    assert "BASE_IMAGE=docker.io" not in "".join(cuda)
    (said,) = [line for line in cpu if "--tag qatune-train:7 " in line]
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu " in said
    assert sum("BASE_IMAGE=docker.io/library/python:3.11" in line for line in cpu) == 2


def test_trackers_come_into_the_images_of_what_reports_to_them(tools):
    lines = dry(tools("podman"), "EXTRAS=mlflow wandb")
    said = [line for line in lines if "--build-arg EXTRAS='mlflow wandb' " in line]
    assert [re.search(r"--tag qatune-(\w+)", line)[1] for line in said] == ["preprocess", "train"]
    for name in ("preprocess", "train"):  # evaluate runs in the first
        text = (ROOT / "images" / name / "Dockerfile").read_text()
        assert re.search(r"^RUN .*/install-dependencies [a-z ]*\$\{EXTRAS\}$", text, re.MULTILINE)


def test_another_builder_is_asked_in_the_same_way(tools):
    lines = dry(tools(), "IMAGE_BUILD=my build", "BASE_IMAGE=mine:1", "VARIANT=cpu", "TORCH_INDEX=")
    assert all(line.startswith("my build qatune-") for line in lines)
    assert sum("BASE_IMAGE=mine:1" in line for line in lines) == 2
    assert "download.pytorch.org" not in "".join(lines)
