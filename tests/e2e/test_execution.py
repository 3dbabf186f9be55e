"""Answers are run in the cluster: what becomes of them, what their pod has, and what if it goes.

Not every cluster enforces NetworkPolicy, so a closed network is looked for in the policy's object;
that an answer opens no socket is tried from inside, and needs no policy.
"""

import csv
import json
import os
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.support import e2e
from tests.support.waiting import wait_for

from qatune import recipe
from qatune.data import executions
from qatune.data.records import ROWS, Answer, AnsweredRow
from qatune.data.shards import Shard
from qatune.store.artifacts import StageRun

RUN = "run"
ONLY = [f"stages.{stage}.enabled=false" for stage in ("preprocess", "train", "generate")]
SLOW = 80  # rows whose answers take half a second
PROBES = {
    "environment": "import os; raise Exception(sorted(os.environ))",
    "parent": "import os; open(f'/proc/{os.getppid()}/environ', 'rb')",
    "memory": "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
    "token": "import os; os.stat('/var/run/secrets/kubernetes.io/serviceaccount/token')",
    "kill": "import os; os.kill(os.getppid(), 9)",
    "fork": "import os\nwhile True: os.fork()",
    "disk": "open('/tmp/x', 'w')",
    "shared": "open('/dev/shm/x', 'w')",
    "network": "import socket; socket.create_connection(('kubernetes.default', 443))",
    "loop": "while True: pass",
    "greed": "x = 'x' * 10**10",
    "noise": "while True: print('x' * 1000)",
}


def reference_rows():
    with (Path(os.environ["QATUNE_TEST_DATA"]) / "mbpp.csv").open() as file:
        return list(csv.DictReader(file))[:24]


def answered():
    """Make rows (with their tests): right and wrong answers, slow ones, and what pries."""
    rows = [
        (each["task_id"], each["tests"], f"```python\n{each['answer']}\n```", "def nothing(): pass")
        for each in reference_rows()
    ]
    rows += [
        (f"slow{n}", f"assert x == {n}", f"import time\ntime.sleep(0.5)\nx = {n}", f"x = {n}")
        for n in range(SLOW)
    ]
    rows += [(name, "assert True", code, "x = 1") for name, code in PROBES.items()]
    return rows


def prepare(bucket, ours):
    """Complete every stage before evaluate, with these answers."""
    rows, store = answered(), bucket.store
    stage = StageRun.open(store, RUN, "preprocess", ours)
    sink = pa.BufferOutputStream()
    held_out = [
        {"id": name, "file": "f", "row": number, "question": name, "answer": base,
         "input_ids": [1, 2], "answer_start": 1, "tests": tests}
        for number, (name, tests, base, _) in enumerate(rows, 1)
    ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(held_out, ROWS), sink)
    stage.create("test-00000.parquet", sink.getvalue().to_pybytes())
    stage.counters = {"rows_read": len(rows), "rows_kept": len(rows)}
    stage.finish()
    stage = StageRun.open(store, RUN, "train", ours)
    stage.create("metrics.jsonl", b"")
    stage.counters = {"steps": 0}
    stage.finish()
    stage = StageRun.open(store, RUN, "generate", ours)
    made = [
        AnsweredRow(
            name, name, base, 9, 9, *(Answer(text, 9, "stop", 1.0) for text in (base, ours))
        )
        for name, _, base, ours in rows
    ]
    stage.create(
        Shard().part(0), b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in made)
    )
    stage.counters = {"rows": len(rows), "answers": len(rows), "errors": 0}
    stage.finish()


@pytest.fixture(scope="module")
def release(bucket, namespace, tmp_path_factory):
    """Evaluate in the cluster, and lose both its pod and the sandbox's on the way."""
    columns = {"columns": {"id": "task_id", "tests": "tests"}}
    values = e2e.values(bucket, data=columns)
    values["recipe"]["execute"] = {"timeout_seconds": 3, "memory_mb": 256}
    small = {"requests": {"cpu": "100m", "memory": "768Mi"}, "limits": {"memory": "768Mi"}}
    values["stages"]["execute"] = {"resources": small}
    prepare(bucket, recipe.validate(values["recipe"]))
    given = e2e.written(tmp_path_factory.mktemp("values"), values)
    namespace.install("mine", given, "run.name=" + RUN, *ONLY)
    seen = _look_inside(namespace)
    part = f"runs/{RUN}/evaluate/execution/part-00000.jsonl"
    wait_for("the first outcomes", 300, lambda: bucket.store.stat(part))
    for component in ("execute", "evaluate"):
        for pod in namespace.pods("mine", component):
            namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    assert namespace.ends("mine", "coordinator", 400) == "Complete"
    return seen


def _look_inside(namespace):
    """Ask the sandbox's pod, while it is there, what it has."""

    def running():
        pods = namespace.pods("mine", "execute")
        return [pod for pod in pods if pod["status"].get("phase") == "Running"]

    pod = wait_for("the sandbox", 300, running)[0]
    script = "env; ls /var/run/secrets /scratch /etc/qatune; touch /x /tmp/x /scratch/x; true"
    shown = namespace.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", script)
    return pod, shown.stdout, shown.stderr


def decoded(bucket, key):
    return executions.decode(bucket.store.read(key)).rows


def outcomes(bucket):
    keys = sorted(bucket.store.keys(f"runs/{RUN}/evaluate/execution/"))
    return {row.id: row for key in keys for row in decoded(bucket, key)}


def test_each_answer_has_its_outcome(release, bucket):
    found = outcomes(bucket)
    assert list(found) == [name for name, *_ in answered()]
    right = [each["task_id"] for each in reference_rows()] + [f"slow{n}" for n in range(SLOW)]
    assert {found[name].base.outcome for name in right} == {"passed"}
    assert {found[name].adapter.outcome for name in right[:24]} == {"error"}
    assert {found[name].adapter.outcome for name in right[24:]} == {"passed"}
    assert bucket.manifest(RUN, "evaluate").outputs_like(".jsonl", prefix="execution/")


def test_no_answer_gets_at_anything(release, bucket):
    found = {name: outcomes(bucket)[name].base for name in PROBES}
    kinds = {name: found[name].outcome for name in ("loop", "greed", "noise")}
    assert kinds == {"loop": "timeout", "greed": "memory", "noise": "output"}
    told = {name: each.message for name, each in found.items()}
    assert told["environment"] == "Exception: ['LC_ALL', 'PYTHONHASHSEED', 'TZ']"
    assert told["token"].startswith("FileNotFoundError")
    for name in ("parent", "memory"):
        assert told[name].startswith("PermissionError: [Errno 13]"), name
    for name in ("kill", "fork", "network"):
        assert "not permitted" in told[name] or "resolution" in told[name], told[name]
    for name in ("disk", "shared"):
        assert "Read-only file system" in told[name]


def test_the_sandbox_s_pod_has_nothing(release, namespace):
    pod, shown, refused = release
    assert "AWS" not in shown
    assert "QATUNE" not in shown
    assert "s3" not in shown.lower()
    assert "/var/run/secrets: No such file" in refused.replace("'", "")
    assert refused.count("Read-only file system") == 3
    assert not [each for each in pod["spec"].get("volumes", []) if "emptyDir" not in each]
    policy = namespace.get("networkpolicy", "mine-execute")["spec"]
    assert "egress" not in policy or policy["egress"] == []
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]


def test_everything_ends_complete(release, namespace):
    """So does the README's `kubectl wait` for all Jobs of the run."""
    jobs = namespace.jobs("mine")
    ends = {name: e2e.condition(job) for name, job in jobs.items()}
    assert ends == dict.fromkeys(("coordinator", "execute", "evaluate"), "Complete")
    selected = ("--selector", f"qatune/run={RUN}", "--for=condition=Complete", "--timeout=1s")
    namespace.kubectl("wait", "jobs", *selected)
