"""`make pin` against a registry over HTTP that wants a token, as the public ones do."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "scripts" / "pin_images.py"
TOKEN = "anonymous-token"
INDEX = "application/vnd.oci.image.index.v1+json"


class Registry(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        self.server.asked.append(self.path)
        if url.path == "/token":
            return self.answer_token(parse_qs(url.query))
        repository, _, tag = url.path.removeprefix("/v2/").partition("/manifests/")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.challenge(repository)
        if (repository, tag) not in self.server.manifests or INDEX not in self.headers["Accept"]:
            return self.answer(404, {}, b"{}")
        body = self.server.manifests[repository, tag]
        said = self.server.wrong or f"sha256:{hashlib.sha256(body).hexdigest()}"
        return self.answer(200, {"Docker-Content-Digest": said, "Content-Type": INDEX}, body)

    def challenge(self, repository):
        realm = f"http://127.0.0.1:{self.server.server_port}/token"
        said = f'Bearer realm="{realm}",service="here",scope="repository:{repository}:pull"'
        self.answer(401, {"WWW-Authenticate": said}, b"{}")

    def answer_token(self, query):
        known = query["service"] == ["here"] and query["scope"][0].endswith(":pull")
        self.answer(200 if known else 400, {}, json.dumps({"token": TOKEN}).encode())

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def registry():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.asked, server.wrong = [], None
    names = [("nvidia/cuda", "13.0"), ("library/python", "3.11")]
    names += [(f"team/qatune-{name}", "1.2") for name in ("preprocess", "train", "generate")]
    server.manifests = {name: json.dumps({"of": name}).encode() for name in names}
    server.host = f"127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def sha(server, repository, tag):
    return "sha256:" + hashlib.sha256(server.manifests[repository, tag]).hexdigest()


@pytest.fixture
def tree(tmp_path, registry):
    (tmp_path / "images" / "base").mkdir(parents=True)
    dockerfile = tmp_path / "images" / "base" / "Dockerfile"
    dockerfile.write_text(f"# base\nARG BASE_IMAGE={registry.host}/nvidia/cuda:13.0\nFROM x\n")
    (tmp_path / "Makefile").write_text(
        f"A := b\nCPU_BASE_IMAGE := {registry.host}/library/python:3.11\nall:\n"
    )
    return tmp_path


def pin(tree, *arguments):
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


def contents(tree):
    return {path: path.read_text() for path in tree.rglob("*") if path.is_file()}


def test_the_registrys_digests_come_beside_the_tags(tree, registry):
    done = pin(tree)
    assert done.returncode == 0, done.stderr
    cuda = f"{registry.host}/nvidia/cuda:13.0@{sha(registry, 'nvidia/cuda', '13.0')}"
    python = f"{registry.host}/library/python:3.11@{sha(registry, 'library/python', '3.11')}"
    dockerfile = (tree / "images" / "base" / "Dockerfile").read_text()
    assert dockerfile == f"# base\nARG BASE_IMAGE={cuda}\nFROM x\n"
    assert f"\nCPU_BASE_IMAGE := {python}\nall:\n" in (tree / "Makefile").read_text()
    assert cuda in done.stdout
    assert python in done.stdout


def test_a_tag_that_moved_is_pinned_anew(tree, registry):
    pin(tree)
    registry.manifests["nvidia/cuda", "13.0"] = b'{"newer": true}'
    assert pin(tree).returncode == 0
    dockerfile = (tree / "images" / "base" / "Dockerfile").read_text()
    assert dockerfile.count("@sha256:") == 1
    assert sha(registry, "nvidia/cuda", "13.0") in dockerfile


def test_nothing_is_written_where_one_image_is_unknown(tree, registry):
    del registry.manifests["library/python", "3.11"]
    before = contents(tree)
    done = pin(tree)
    assert done.returncode == 1
    said = f"error: {registry.host}/library/python:3.11: the registry answers 404 Not Found\n"
    assert done.stderr == said
    assert contents(tree) == before


def test_a_digest_that_does_not_fit_is_not_taken(tree, registry):
    registry.wrong = "sha256:" + "0" * 64
    before = contents(tree)
    assert "is not that of what it sent" in pin(tree).stderr
    assert contents(tree) == before


def test_a_registry_that_is_not_there_is_said_in_one_line(tree):
    (tree / "Makefile").write_text("CPU_BASE_IMAGE := 127.0.0.1:1/library/python:3.11\n")
    done = pin(tree)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 127.0.0.1:1/library/python:3.11: ")
    assert done.stderr.count("\n") == 1


def test_pushed_images_are_printed_as_values(tree, registry):
    before = contents(tree)
    done = pin(tree, f"{registry.host}/team/qatune-", "1.2")
    assert done.returncode == 0, done.stderr
    stages = yaml.safe_load(done.stdout)["stages"]
    assert list(stages) == ["preprocess", "train", "generate", "evaluate", "coordinator"]
    train = f"{registry.host}/team/qatune-train@{sha(registry, 'team/qatune-train', '1.2')}"
    assert stages["train"] == {"image": train}
    assert stages["evaluate"] == stages["coordinator"] == stages["preprocess"]
    assert contents(tree) == before


def test_docker_hub_is_asked_where_it_answers():
    spec = importlib.util.spec_from_file_location("pin_images", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pin_images"] = module
    spec.loader.exec_module(module)
    root = SCRIPT.parents[1]
    found = {}
    for name, pattern in module.BASES.items():
        (found[name],) = module.re.findall(pattern, (root / name).read_text(), module.re.MULTILINE)
    image = module.Reference.parse(found["images/base/Dockerfile"])
    assert image.url.startswith("https://registry-1.docker.io/v2/nvidia/cuda/manifests/13.")
    assert module.Reference.parse(found["Makefile"]).path == "library/python"
    with pytest.raises(module.PinError, match="not an image with registry and tag"):
        module.Reference.parse("python")
