"""What `explain` says, by what a real cluster has answered (see tests.support.broken)."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support import broken

from qatune.cluster import diagnosis, facts, status
from qatune.errors import MissingInputError, NotAllowedError

ROOT = Path(__file__).parents[2]


class Recorded:
    """A cluster that answers as one did; `closed` are the kinds that may not be read."""

    def __init__(self, namespace, closed=()):
        self.namespace = namespace
        self._found = json.loads(broken.RECORDED.read_text())
        self._closed = closed

    def _list(self, kind, selector=""):
        if kind in self._closed:
            raise NotAllowedError(f"{kind} may not be listed")
        label, _, value = selector.partition("=")
        found = self._found[kind if kind == "nodes" else f"{self.namespace}/{kind}"]
        if not value:
            return found
        return [each for each in found if each["metadata"]["labels"].get(label) == value]

    def jobs(self, selector):
        return self._list("jobs", selector)

    def pods(self, selector):
        return self._list("pods", selector)

    def events(self):
        return self._list("events")

    def quotas(self):
        return self._list("resourcequotas")

    def nodes(self):
        return self._list("nodes")

    def pods_on_nodes(self):
        return self._list("pods")


@pytest.mark.parametrize("run", broken.BROKEN)
def test_what_cannot_run_is_explained(run):
    said = diagnosis.explain(facts.gather(Recorded("broken"), run))
    assert re.fullmatch(broken.sentence(broken.BROKEN, run, "broken"), said), said
    assert "\n" not in said


@pytest.mark.parametrize("run", broken.OVER_QUOTA)
def test_a_quota_that_allows_no_more_is_named(run):
    said = diagnosis.explain(facts.gather(Recorded("quota"), run))
    assert re.fullmatch(broken.sentence(broken.OVER_QUOTA, run, "quota"), said), said


def test_the_quota_is_told_as_it_is_now_else_as_it_was():
    now = facts.gather(Recorded("quota"), "quota")
    quota = replace(now.quotas[0], used={"requests.nvidia.com/gpu": "7"})
    assert "7 of 1 is used" in diagnosis.explain(replace(now, quotas=[quota]))
    closed = facts.gather(Recorded("quota", closed=("resourcequotas",)), "quota")
    assert "0 of 1 is used" in diagnosis.explain(closed)


def test_where_nodes_are_closed_the_scheduler_speaks():
    said = diagnosis.explain(facts.gather(Recorded("broken", closed=("nodes",)), "gpus"))
    assert re.fullmatch(
        r"train waits for 900 nvidia.com/gpu; the scheduler says: 0/\d+ nodes are available: .+",
        said,
    )
    assert "preemption" not in said


@pytest.mark.parametrize("run", ["data", "memory", "gpus", "secret"])
def test_where_events_are_closed_jobs_and_pods_say_enough(run):
    closed = ("events", "resourcequotas")
    said = diagnosis.explain(facts.gather(Recorded("broken", closed), run))
    assert re.fullmatch(broken.sentence(broken.BROKEN, run, "broken"), said), said


def test_a_run_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(MissingInputError, match=r"no run 'nope' in namespace quota; runs there: "):
        facts.gather(Recorded("quota"), "nope")


@pytest.mark.parametrize(
    ("run", "state"),
    [
        ("gpus", "pending"),
        ("secret", "pending"),
        ("security", "starting"),
        ("data", "failed"),
        ("disk", "failed"),
    ],
)
def test_the_state_of_a_stage(run, state):
    known = facts.gather(Recorded("broken"), run)
    (line,) = [each for each in status.from_cluster(known, None).stages if each.stage == "train"]
    assert line.state == state
    if state == "failed":
        assert line.reason == diagnosis.explain(known)


def test_of_two_attempts_the_newer_one_is_told():
    class Twice(Recorded):
        def jobs(self, selector):
            (old,) = super().jobs(selector)
            new = json.loads(json.dumps(old))
            new["metadata"] |= {"name": "new", "creationTimestamp": "2099-01-01T00:00:00Z"}
            new["metadata"]["labels"]["qatune/attempt"] = "2"
            return [old, new]

    (job,), others = facts.run_jobs(Twice("broken"), "data")
    assert others == []
    assert (job.name, job.attempt) == ("new", 2)


def test_of_two_releases_the_newer_one_is_told_and_the_other_is_named():
    class Two(Recorded):
        def jobs(self, selector):
            (ours,) = super().jobs(selector)
            other = json.loads(json.dumps(ours))
            other["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
            other["metadata"]["labels"]["app.kubernetes.io/instance"] = "older"
            return [ours, other]

    known = facts.gather(Two("broken"), "gpus")
    assert [job.release for job in known.stages] == ["gpus"]
    assert "release older works on this run, too" in status.from_cluster(known, None).notes
    assert not facts.gather(Two("broken"), "data").others  # it has ended


def test_what_an_earlier_job_of_the_same_name_met_is_not_told():
    class Anew(Recorded):
        def jobs(self, selector):
            (job,) = super().jobs(selector)
            job["metadata"]["creationTimestamp"] = "2099-01-01T00:00:00Z"
            return [job]

    assert facts.gather(Recorded("broken"), "security").events
    assert not facts.gather(Anew("broken"), "security").events


def test_jobs_that_the_coordinator_was_told_of_and_that_are_gone():
    class Told(Recorded):
        def jobs(self, selector):
            (train,) = super().jobs(selector)
            coordinator = json.loads(json.dumps(train))
            coordinator["metadata"]["labels"]["app.kubernetes.io/component"] = "coordinator"
            name = train["metadata"]["name"]
            arguments = ["coordinate", f"--job=train={name}", "--job=generate=gone"]
            container = {"args": arguments}
            coordinator["spec"]["template"] = {"spec": {"containers": [container]}}
            return [train, coordinator]

    assert facts.gather(Told("broken"), "data").missing == ["generate"]


def test_a_namespace_without_runs_points_at_another():
    class Empty(Recorded):
        def jobs(self, selector):
            return []

    with pytest.raises(MissingInputError, match="there is none; --namespace names another"):
        facts.gather(Empty("broken"), "data")


DOCUMENTED = ROOT / "docs" / "troubleshooting.md"
NOT_DOCUMENTED = {"image-name", "command"}  # as the image that does not exist, and as a crash


@pytest.mark.parametrize("run", sorted((broken.BROKEN | broken.OVER_QUOTA).keys() - NOT_DOCUMENTED))
def test_the_documentation_shows_what_is_said(run):
    cases = broken.BROKEN | broken.OVER_QUOTA
    pattern = broken.sentence(cases, run, "qatune").replace(f"upgrade {run}", "upgrade mine")
    pattern = pattern.replace("crash-train-\\w+", r"mine-train-[\w-]+")
    shown = [" ".join(part.split()) for part in DOCUMENTED.read_text().split("\n\n")]
    assert any(re.fullmatch(pattern, each) for each in shown), pattern
