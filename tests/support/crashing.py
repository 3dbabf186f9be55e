"""Stages in processes of their own that are killed, and started again until they are done.

The processes are forked from one that has done the imports, so that a start takes no seconds.
"""

import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from pathlib import Path

from qatune import recipe as recipes
from qatune.store.memory import MemoryStore
from qatune.store.opening import open_store
from tests.support.mortal_store import Kill, MortalStore

RUN = "tiny"
DONE, KILLED = 0, -signal.SIGKILL
_PATIENCE_SECONDS = 300
_ONE_AT_A_TIME = threading.Lock()
"""A start asks how all children are: of two threads that ask for one at once, one gets 255."""
EVEN = {"qatune.store.heartbeats:EVERY_SECONDS": 1e9}
"""A patch that lets a slow start make as many calls as a quick one."""
IMPATIENT = {
    **EVEN,
    "qatune.store.s3:_ANSWER_SECONDS": 1.0,
    "qatune.store.s3:_SLOWEST": 10**9,
    "qatune.model.uploads:_PAUSE_SECONDS": 0.2,
    "qatune.model.uploads:PATIENCE_SECONDS": 10.0,
}
"""Patches that make waiting short."""
_TIMED = ("manifest.json", "progress", "shards/", "checkpoints/")
"""What of a stage's objects holds times, or is of no account once the stage is complete."""
OF_THE_MOMENT = {
    "samples_per_second", "prompts_per_second", "tokens_per_second", "padding_share",
    "peak_share", "peak_memory_bytes",
    "resumed_from_step", "checkpoint_wait_seconds",
}  # fmt: skip
"""Counters of a manifest that no two runs share."""
_TIMES = {"seal", "seconds", "finished", "counters", "parents"}


@dataclass(frozen=True)
class Start:
    """A stage, or one shard of it, as its pod starts it."""

    stage: str
    store: str
    recipe: str
    """As JSON."""
    given: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    patches: dict = field(default_factory=lambda: EVEN)
    """Values of `module:name`, for what would take too long."""


def ended(process, seconds: float | None = None) -> int | None:
    """Wait so long for a process that was forked; return its exit code, None while it works."""
    connection.wait([process.sentinel], seconds)
    with _ONE_AT_A_TIME:
        process.join(0)
        return process.exitcode


def forkserver():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    return context


def work(start: Start, kill: Kill | None, counted: Path) -> None:
    """Do a stage in this process; end with its exit code."""
    from qatune.errors import QatuneError

    os.environ.update(start.environment, QATUNE_CACHE=str(counted.with_name("cache")))
    for place, value in start.patches.items():
        module, _, name = place.partition(":")
        setattr(importlib.import_module(module), name, value)
    _be_quiet(counted.with_suffix(".log"))
    from qatune.cli import _run_stage

    store = MortalStore(open_store(start.store), kill, counted)
    ours = recipes.parse(start.recipe.encode(), "recipe")
    try:
        _run_stage(start.stage, store, RUN, ours, **start.given)
    except QatuneError as error:
        print(error, flush=True)  # noqa: T201 - into the log of this start
        os._exit(error.exit_code)


def _be_quiet(log: Path) -> None:
    """Let the child's lines go to a file, which tells why it failed."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    importlib.import_module("torch").set_num_threads(1)


@dataclass
class Tally:
    """What a suite has tried, for its promise and for the docs."""

    rows: list[dict] = field(default_factory=list)

    def add(self, stage, how, ends, *, differ):
        kills = sum(end == KILLED for end in ends)
        self.rows.append(
            {"stage": stage, "how": how, "kills": kills, "starts": len(ends), "differ": differ}
        )

    def sums(self):
        """Kills, starts and differing results by stage and manner."""
        sums: dict[tuple[str, str], list[int]] = {}
        for row in self.rows:
            found = sums.setdefault((row["stage"], row["how"]), [0, 0, 0])
            for place, name in enumerate(("kills", "starts", "differ")):
                found[place] += row[name]
        return sums

    def kills(self, how="", stage=""):
        return sum(row["kills"] for row in self.rows if how in row["how"] and stage in row["stage"])


class Crashes:
    """Starts and kills the processes of one stage over copies of what comes before it."""

    def __init__(self, context, folder: Path, template: Path, stages: list[Start], tally: Tally):
        self._context, self._folder, self._template = context, folder, template
        self.starts, self.tally = stages, tally
        self.stage = stages[0].stage

    def alone(self):
        """Run it without a kill; return its results and the calls that each start made."""
        place = self.place()
        calls = []
        for start in self.starts:
            code = self.once(place, start, None)
            assert code == DONE, self.said(place)
            calls.append(int((place / "counted").read_text()))
        wanted = results(open_store(str(place / "store")), self.stage)
        assert wanted["objects"]
        assert wanted["manifest"]["outputs"]
        return wanted, calls

    def once(self, place: Path, start: Start, kill: Kill | None, seconds: float | None = None):
        """Start once; kill at a call, or after these seconds. Return the exit code."""
        process = self.begun(place, start, kill)
        if seconds is None:
            return self.end_of(place, process)
        if ended(process, seconds) is None:
            process.kill()
        return ended(process)

    def end_of(self, place: Path, process) -> int:
        code = ended(process, _PATIENCE_SECONDS)
        if code is None:
            process.kill()
        assert code is not None, f"it hangs: {self.said(place)}"
        return code

    def begun(self, place: Path, start: Start, kill: Kill | None):
        moved = replace(start, store=start.store or str(place / "store"))
        process = self._context.Process(target=work, args=(moved, kill, place / "counted"))
        with _ONE_AT_A_TIME:
            process.start()
        return process

    def until_done(self, place: Path, ends: list[int], starts=None, *, stops=(75,), tries=10):
        """Start every shard until it is done, as Kubernetes does; it may stop by these codes."""
        for start in starts or self.starts:
            for _ in range(tries):
                ends.append(self.once(place, start, None))
                if ends[-1] == DONE:
                    break
                assert ends[-1] in stops, self.said(place)
            assert ends[-1] == DONE, self.said(place)

    def place(self) -> Path:
        """Copy what comes before the stage to a place of its own."""
        place = self._folder / f"{self.stage}-{time.monotonic_ns()}-{random.randrange(10**6)}"
        shutil.copytree(self._template, place / "store")
        return place

    def judge(self, place: Path, ends: list[int], how: str, wanted: dict, store=None):
        """Hold the results against those of the run left alone; forget the place if they agree.

        They are in the place's own store unless another is given.
        """
        found = results(store or open_store(str(place / "store")), self.stage)
        self.tally.add(self.stage, how, ends, differ=int(found != wanted))
        assert found == wanted, f"{how}: {differences(found, wanted)} {self.said(place)}"
        shutil.rmtree(place)

    @staticmethod
    def said(place: Path) -> str:
        log = place / "counted.log"
        return log.read_text()[-2000:] if log.exists() else ""


def results(opened, stage: str) -> dict:
    """Everything that a stage leaves: its objects, and what its manifest says of them."""
    from qatune.store import manifests
    from qatune.store.objects import describe

    head = f"runs/{RUN}/{stage}/"
    names = [key for key in opened.keys(head) if not key.removeprefix(head).startswith(_TIMED)]
    objects = {key: describe(opened, key).sha256 for key in sorted(names)}
    found = manifests.load(opened, RUN, stage)
    assert found, f"{stage} is not complete"
    manifest = found[0].model_dump(mode="json")
    counters = {
        name: count for name, count in manifest["counters"].items() if name not in OF_THE_MOMENT
    }
    said = {name: value for name, value in manifest.items() if name not in _TIMES}
    return {"objects": objects, "manifest": said | {"counters": counters}}


def differences(found: dict, wanted: dict) -> list[str]:
    return [
        f"{key}: {one.get(key)}, wanted {other.get(key)}"
        for one, other in zip(found.values(), wanted.values(), strict=True)
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]


def side_by_side(trial, cases):
    """Try all cases, two at a time; the first failure comes out at the end."""
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(trial, *case) for case in cases]:
            done.result()


def killed_after(process: subprocess.Popen, seconds: float) -> int:
    """Kill a process unless it ends before; return its exit code."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def fresh(start: Start, place: Path):
    """Start a stage by the command line, in a process that does the imports itself."""
    recipe, store = place / "recipe.json", start.store or str(place / "store")
    recipe.write_text(json.dumps({"recipe": json.loads(start.recipe)}))
    command = [
        str(Path(sys.executable).with_name("qatune")), start.stage, "--run", RUN,
        "--store", store, "--recipe", str(recipe),
    ]  # fmt: skip
    more = [part for name, value in start.given.items() for part in (f"--{name}", str(value))]
    environment = os.environ | start.environment | {"OMP_NUM_THREADS": "1"}
    environment["QATUNE_CACHE"] = str(place / "cache")
    with (place / "counted.log").open("ab") as log:
        return subprocess.Popen([*command, *more], stdout=log, stderr=log, env=environment)


def in_bucket(crashes, server, place):
    """Put what comes before the stage into the bucket; return the stage's starts there."""
    for path in sorted((place / "store").rglob("*")):
        if path.is_file():
            name = path.relative_to(place / "store").as_posix()
            server.objects[f"p/{name}"] = path.read_bytes()
    environment = {
        "AWS_ENDPOINT_URL_S3": server.endpoint, "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    return [
        replace(start, store="s3://bucket/p", environment=environment, patches=IMPATIENT)
        for start in crashes.starts
    ]


def bucket_of(server):
    """Return the bucket of a server that is a part of the test, past its faults."""
    store = MemoryStore()
    for key, data in server.objects.items():
        store.create(key.removeprefix("p/"), data)
    return store
