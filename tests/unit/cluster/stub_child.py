"""Stands in for a router or a node under the supervisor: takes their arguments, says when it is ready, and does as it is told.

`STUB_FOLDER` is where it finds its orders, in a file of its name, and where it appends to `events` what befalls it:
`<monotonic seconds> <name> <pid> <event>`. With a `--listen-fd` it answers every connection with its pid; `restart` sent to it makes it
ask the supervisor for a rolling restart, as a router does.

| order | it |
| --- | --- |
| `exit 2` | says why on standard error and ends with this code before it is ready |
| `silent` | is never ready |
| `die` | ends with exit code 1 as soon as it is ready |
| `deaf` | ignores SIGTERM |
| `slow` | takes 0.3 s to end |
"""

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["STUB_FOLDER"])


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else ""


NAME = option("--id")
ENDING, END = os.pipe()  # the signal handler's word to the loop, so that an answer that was begun is finished


def tell(event: str) -> None:
    line = f"{time.monotonic()} {NAME} {os.getpid()} {event}\n"
    with (FOLDER / "events").open("a") as events:
        events.write(line)


def orders() -> str:
    try:
        return (FOLDER / NAME).read_text().strip()
    except FileNotFoundError:
        return ""


def on_term(*_: object) -> None:
    os.write(END, b"!")


def end() -> None:
    tell("asked to end")
    time.sleep(0.3 if orders() == "slow" else 0)
    tell("ends")


def say_ready() -> None:
    fd = int(option("--ready-fd"))
    tell("ready")
    os.write(fd, b"ready\n")
    os.close(fd)


def answer(listening: socket.socket) -> None:
    try:
        connection, _ = listening.accept()
    except BlockingIOError:
        return
    with connection:
        connection.setblocking(True)
        if connection.recv(100) == b"restart":
            os.kill(os.getppid(), signal.SIGHUP)
        connection.sendall(str(os.getpid()).encode())


def serve() -> None:
    fd = option("--listen-fd")
    sockets: list[socket.socket] = [socket.socket(fileno=int(fd))] if fd else []
    while True:
        readable, _, _ = select.select([ENDING, *(sock.fileno() for sock in sockets)], [], [])
        if ENDING in readable:
            return end()
        answer(sockets[0])


def main() -> None:
    tell("started")
    order = orders()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if order == "deaf" else on_term)
    admin = socket.socket(fileno=int(option("--admin-fd")))
    tell(f"admin {admin.getsockname()[1]}")
    tell(f"port {os.environ['AGENT_SERVER_SERVER_PORT']} redis {os.environ.get('AGENT_SERVER_REDIS_URL')}")
    if order.startswith("exit"):
        sys.stderr.write("the first line\nport 1 will not do\n")
        sys.exit(int(order.split()[1]))
    if order != "silent":
        say_ready()
    if order == "die":
        sys.exit(1)
    serve()


main()
