"""Waiting for what becomes true."""

import time


def wait_for(what, seconds, check, pause=0.05):
    """Ask, with pauses, until the answer is true; return it. Fail after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(pause)
    return found
