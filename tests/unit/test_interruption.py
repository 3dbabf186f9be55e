"""A signal may come at any moment, also while a line is being logged."""

import os
import signal
import subprocess
import sys
from textwrap import dedent

import pytest

from qatune import interruption

IN_A_LINE = dedent(
    """
    import io, os, signal, sys
    from qatune import interruption, log

    class Terminated(io.StringIO):
        def write(self, text):
            if self.getvalue() == "":
                os.kill(os.getpid(), signal.SIGTERM)
            return super().write(text)

    kept = sys.stderr = Terminated()
    log.configure()
    with interruption.watched() as stop:
        log.get().info("a line")
        assert stop.requested
        assert stop.requested
    print(kept.getvalue())
    """
)


def test_a_signal_in_the_middle_of_a_log_line_blocks_nothing_and_is_told_once():
    done = subprocess.run(
        [sys.executable, "-c", IN_A_LINE], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.index("a line") < done.stdout.index("SIGTERM: saving what is done")
    assert done.stdout.count("SIGTERM") == 1


def test_a_second_signal_ends_at_once():
    with interruption.watched() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
