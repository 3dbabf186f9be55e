"""A second signal ends training at once, also while a checkpoint is on its way."""

import signal
import threading
import time
from dataclasses import replace

from tests.support import crashing, faulty_s3
from tests.support.faulty_s3 import Fault
from tests.support.waiting import wait_for

INTERRUPTED = 130
AT_ONCE_SECONDS = 3.0


def test_a_second_signal_waits_for_no_upload(runs):
    crashes = runs.crashes("train")
    wanted, _ = crashes.alone()
    place, asked, free = crashes.place(), threading.Event(), threading.Event()

    def plan(method, key):
        """Let the second checkpoint hang."""
        if method != "PUT" or "/step-00000004/" not in key:
            return None
        asked.set()
        return Fault("PUT", call=lambda: free.wait(60))

    with faulty_s3.running() as server:
        (start,) = crashing.in_bucket(crashes, server, place)
        server.plan = plan
        process = crashing.fresh(start, place)
        assert asked.wait(60), crashes.said(place)
        process.send_signal(signal.SIGTERM)
        wait_for("a line", 30, lambda: "SIGTERM: saving what is done" in crashes.said(place))
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == INTERRUPTED, crashes.said(place)
        assert time.monotonic() - began < AT_ONCE_SECONDS
        server.plan = None
        free.set()
        assert not [key for key in server.objects if "/adapter/" in key]
        assert crashes.once(place, replace(start), None) == crashing.DONE
        assert "step=2" in crashes.said(place)  # what it went on from
        assert crashing.results(crashing.bucket_of(server), "train") == wanted
