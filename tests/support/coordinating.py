"""A coordinator in this process or as a command, and a controller that a test plays."""

from datetime import UTC, datetime

from qatune.cluster import client
from qatune.cluster.coordinator import Coordinator
from tests.support import finished_run
from tests.support.cluster import RUN, STAGES


def ended(process, seconds=90):
    """Return exit code and last line."""
    _, errors = process.communicate(timeout=seconds)
    return process.returncode, errors.strip().splitlines()[-1]


def connected(kubeconfig, monkeypatch):
    with monkeypatch.context() as its:
        its.setenv("KUBECONFIG", str(kubeconfig))
        return client.connect()


def in_process(api, store, release, stages=STAGES, **fields):
    names = {stage: f"{release}-{stage}" for stage in stages}
    recipe = finished_run.recipe()
    return Coordinator(api, store, RUN, recipe, names, f"{release}-coordinator", **fields)


def note(space, job, name):
    return space.get("job", job)["metadata"].get("annotations", {}).get(f"qatune/{name}")


def play_controller(space, job):
    """End a released Job: well, but for generate, which fails."""
    if job["spec"]["suspend"] or "conditions" in job["status"]:
        return
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fails = job["metadata"]["name"].endswith("generate")
    kinds = ("FailureTarget", "Failed") if fails else ("SuccessCriteriaMet", "Complete")
    conditions = [
        {"type": kind, "status": "True", "reason": "Test", "message": "", "lastTransitionTime": now}
        for kind in kinds
    ]
    status = {"startTime": now, "conditions": conditions}
    status |= {} if fails else {"completionTime": now, "succeeded": 1}
    space.patch("job", job["metadata"]["name"], {"status": status}, "--subresource=status")


class KilledError(BaseException):
    """As SIGKILL: nothing handles it."""


class Mortal:
    """A cluster whose caller dies before or after the request of a certain number."""

    def __init__(self, api, number, moment):
        self._api, self._left, self._moment = api, number, moment

    def __getattr__(self, name):
        call = getattr(self._api, name)

        def counted(*arguments):
            self._left -= 1
            if self._left == 0 and self._moment == "before":
                raise KilledError
            answer = call(*arguments)
            if self._left == 0 and self._moment == "after":
                raise KilledError
            return answer

        return counted
