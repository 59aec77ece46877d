"""Runs the supervisor over stub children, as `agent-server start` runs it over routers and nodes.

Argument: a JSON object with `flags` (section.key -> value) and `timing` (fields of Timing, and `pace` with those of Pace),
`config` (a path or null), `redis_port`.
"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from cluster import config
from cluster.child import Pace
from cluster.errors import StartError
from cluster.launcher import Launcher, Timing
from cluster.programs import Commands


def main() -> int:
    order = json.loads(sys.argv[1])
    timing = Timing(pace=Pace(**order["timing"].pop("pace", {})), **order["timing"])
    loaded = config.load(order["config"], environ=os.environ, flags=order["flags"])
    stub = (sys.executable, "-S", "-E", str(Path(__file__).with_name("stub_child.py")))
    commands = Commands(router=stub, node=stub)
    logging.basicConfig(level="INFO", format="%(message)s")
    launcher = Launcher(
        loaded,
        environ=os.environ,
        flags=order["flags"],
        commands=commands,
        timing=timing,
        redis_port=order["redis_port"],
    )
    try:
        asyncio.run(launcher.run())
    except StartError as error:
        sys.stderr.write(f"agent-server: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
