"""How tests share several processes, as a plugin of pytest: `pytest -n 3`, where most of them wait most of the time.

A file stays together, and so does the contract folder, whose tests share clusters and go on while others run. Files with the longest tests
come first, so that no process waits for another's last one.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_TOGETHER = "tests/contract/"
_FOLDERS = ("contract", "faults", "acceptance", "bench", "integration", "unit")  # from long tests to short ones


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Each process takes the next file when it is done with one."""

    def _split_scope(self, nodeid: str) -> str:
        return _TOGETHER if nodeid.startswith(_TOGETHER) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    config.option.loadscopereorder = False  # a file's tests say nothing of how long they take
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    folder = item.nodeid.split("/")[1]
    return _FOLDERS.index(folder) if folder in _FOLDERS else len(_FOLDERS)
