"""Is the process that a trial names still alive?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from spikesearch.study.worker import Worker, process_start, running_here, start_by_psutil


def test_this_process_lives_while_the_run_goes_on() -> None:
    me = Worker.here("run")
    assert not me.is_alive()
    with running_here("run"):
        assert me.is_alive()
        assert not replace(me, run="another").is_alive()
    assert not me.is_alive()


def test_another_process_lives_until_it_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = process_start(process.pid)
    assert start is not None
    other = replace(Worker.here("run"), pid=process.pid, start=start)
    assert other.is_alive()
    assert not replace(other, start=start + "0").is_alive()  # the process id has been used again
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but nobody has asked for its exit status yet
    assert not other.is_alive()
    process.communicate()
    assert not other.is_alive()


def test_a_process_of_another_machine_counts_as_alive() -> None:
    assert Worker("another-host", os.getpid(), "0", "run").is_alive()


def test_it_survives_json() -> None:
    me = Worker.here("run")
    assert Worker.from_dict(me.to_dict()) == me


@pytest.mark.parametrize("data", [None, 3, "worker", {}, {"host": "a", "pid": "x", "start": "", "run": ""}])
def test_what_is_no_worker_is_nobody(data: object) -> None:
    assert Worker.from_dict(data) is None


def test_without_proc_psutil_answers() -> None:
    start = start_by_psutil(os.getpid())
    assert start == start_by_psutil(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert start_by_psutil(process.pid) is None
