"""An operator's calls about nodes: what the list says, and which orders are refused."""

from typing import Any

import pytest

from tests.contract.gateway import Gateway, error_of
from tests.support.http_client import Response

pytestmark = pytest.mark.asyncio(loop_scope="session")


def said(answer: Response) -> Any:
    assert answer.status == 200, answer
    return answer.json()


FIELDS = {"id", "state", "since", "agents", "cpu_percent", "machine", "address", "boot", "supervisor"}


@pytest.mark.parametrize("slash", ["", "/"])
async def test_nodes_are_listed(gateway: Gateway, slash: str) -> None:
    answer = said(await gateway.call("GET", f"/api/nodes{slash}"))
    assert [(set(node), node["id"], node["state"]) for node in answer["nodes"]] == [
        (FIELDS, "n1", "ready"),
        (FIELDS, "n2", "ready"),
    ]
    assert all(node["since"].endswith("Z") and node["machine"] and node["boot"] for node in answer["nodes"])


async def test_a_router_tells_which_one_it_is(gateway: Gateway) -> None:
    answer = said(await gateway.call("GET", "/api/self"))
    assert (set(answer), answer["id"]) == ({"id", "boot", "supervisor", "version"}, "r1")
    nodes = said(await gateway.call("GET", "/api/nodes"))["nodes"]
    assert {node["supervisor"] for node in nodes} == {answer["supervisor"]}


@pytest.mark.parametrize("order", ["drain", "undrain", "move"])
async def test_an_order_to_a_node_that_is_not_there_is_404(gateway: Gateway, order: str) -> None:
    error_of(await gateway.call("POST", f"/api/nodes/n9/{order}", {"agents": 1}), 404, 1003)


@pytest.mark.parametrize(
    ("order", "body"),
    [
        ("drain", {"per_second": 0.001}),
        ("drain", {"per_second": -1}),
        ("drain", {"per_second": "fast"}),
        ("drain", []),
        ("move", {}),
        ("move", {"agents": 0}),
        ("move", {"agents": -5}),
        ("move", {"agents": 1.5}),
        ("move", {"agents": 5, "per_second": 1e9}),
    ],
)
async def test_an_order_that_makes_no_sense_is_400_and_changes_nothing(
    gateway: Gateway, order: str, body: object
) -> None:
    error_of(await gateway.call("POST", f"/api/nodes/n1/{order}", body), 400, 1002)
    nodes = said(await gateway.call("GET", "/api/nodes"))["nodes"]
    assert {node["state"] for node in nodes} == {"ready"}


@pytest.mark.parametrize("node", ["a%20b", "*", "n1%0d%0a", "x" * 65])
async def test_a_name_that_no_node_can_have_is_400(gateway: Gateway, node: str) -> None:
    error_of(await gateway.call("POST", f"/api/nodes/{node}/drain"), 400, 1002)


async def test_an_order_is_a_post(gateway: Gateway) -> None:
    answer = await gateway.call("GET", "/api/nodes/n1/drain")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
