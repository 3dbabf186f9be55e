"""A thousand shards on pretended nodes: what the cluster and the coordinator pay for them."""

import os
import re
import threading
import time

import pytest
from tests.support import e2e

SHARDS = 1000
MEMORY = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
PEAK = (
    "import os\n"
    "for name in filter(str.isdigit, os.listdir('/proc')):\n"
    "    if b'coordinate' in open(f'/proc/{name}/cmdline', 'rb').read() and name != '1':\n"
    "        print(open(f'/proc/{name}/status').read())\n"
)


@pytest.fixture(scope="module")
def pretended():
    """Label and taint key of nodes on which no pod really runs."""
    name = os.environ.get("QATUNE_E2E_PRETEND")
    if not name:
        pytest.skip("QATUNE_E2E_PRETEND names no pretended nodes")
    nodes = e2e.run("kubectl", "get", "nodes", "--selector", name, "--output=name").stdout.split()
    assert len(nodes) >= 50
    return name


def test_a_thousand_shards(bucket, namespace, pretended, tmp_path):
    """The pods do nothing there, so the run ends without a manifest; that is said, too."""
    values = e2e.values(bucket, train={"max_steps": 2, "save_steps": 2, "eval_steps": 2})
    values["generate"] = {"shards": SHARDS}
    values["stages"]["generate"] |= {
        "nodeSelector": {pretended: "true"},
        "tolerations": [{"key": pretended, "operator": "Exists"}],
    }
    peaks, stop = [], threading.Event()
    namespace.install("many", e2e.written(tmp_path, values))
    watcher = threading.Thread(target=_watch, args=(namespace, peaks, stop))
    watcher.start()
    try:
        assert namespace.ends("many", "coordinator", 420) == "Failed"
    finally:
        stop.set()
        watcher.join()
    job = namespace.jobs("many")["generate"]
    assert e2e.condition(job) == "Complete"
    assert job["status"]["succeeded"] == SHARDS
    said = namespace.jobs("many")["evaluate"]["metadata"]["annotations"]["qatune/blocked"]
    assert "manifest" in said
    assert max(peaks) < 100 * 1024, "kB of the coordinator"
    manifest = e2e.run("helm", "get", "manifest", "many", "--namespace", namespace.name).stdout
    assert len(manifest) < 60_000


def _watch(namespace, peaks, stop):
    """Read the coordinator's peak of memory while it runs."""
    while not stop.is_set():
        for pod in namespace.pods("many", "coordinator"):
            done = namespace.kubectl(
                "exec", pod["metadata"]["name"], "--", "python", "-c", PEAK, check=False
            )
            peaks += [int(found) for found in MEMORY.findall(done.stdout)]
        time.sleep(1)
