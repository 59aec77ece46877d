"""How much slower this machine is at the moment than one that is left alone.

Limits on time are promises about such a machine; a test multiplies them by what it measures just before. The measure is what most of
these times consist of: a Python process that comes up with what a router imports.
"""

import asyncio
import os
import sys
import time

from tests.support.cluster_process import ROOT

_ALONE_S = 0.7  # on a machine of 2 cores of 2023


async def slowness() -> float:
    """At least 1."""
    began_s = time.monotonic()
    argv = (sys.executable, "-P", "-c", "import router.app")
    process = await asyncio.create_subprocess_exec(*argv, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert await process.wait() == 0
    return max(1.0, (time.monotonic() - began_s) / _ALONE_S)
