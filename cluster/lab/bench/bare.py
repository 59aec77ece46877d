"""How the bare servers run that the cluster is compared with: on a socket and a CPU that they are given, with the collector as nodes have it."""

import argparse
import gc
import os
import resource
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

GC_THRESHOLDS = (50_000, 20, 50)  # as cluster/service.py, whose import would take longer than the rest

TellReady = Callable[[], None]


def run(serve: Callable[[socket.socket, TellReady], Coroutine[Any, Any, None]]) -> None:
    """Runs a server until the process is ended."""
    parser = argparse.ArgumentParser()
    for name in ("--listen-fd", "--ready-fd", "--cpu"):
        parser.add_argument(name, type=int, default=-1)
    given = parser.parse_args()
    if given.cpu >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {given.cpu})
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    gc.set_threshold(*GC_THRESHOLDS)
    gc.freeze()

    def tell_ready() -> None:
        os.write(given.ready_fd, b"ready\n")

    uvloop.run(serve(socket.socket(fileno=given.listen_fd), tell_ready))
