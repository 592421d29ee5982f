"""Every route declares who may use it, and keeps strangers out: generated from the route table itself."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute

from tests.serve.belongings import Belongings, belongings_of, request
from tests.serve.conftest import Running
from tutee.serve.access.auth import RULE
from tutee.serve.app import build_app, routes

TABLE = [(method, route) for route in routes() for method in sorted(route.methods or ())]


def rule_of(route: APIRoute) -> str:
    return str((route.openapi_extra or {}).get(RULE, ""))


OWNED = [(method, route) for method, route in TABLE if rule_of(route).startswith("owner:")]
NAMES = [f"{method} {route.path}" for method, route in OWNED]


@pytest.fixture(scope="module")
def mine(server: Running) -> Belongings:
    with server.http("victim") as http:
        return belongings_of(http, server.sdk(default_headers={"X-Tutee-Actor": "victim"}))


def test_every_route_declares_a_rule() -> None:
    for method, route in TABLE:
        rule = rule_of(route)
        known = rule in ("public", "member", "operator") or rule.startswith("owner:")
        assert known, f"{method} {route.path} declares no access rule (see tutee/serve/access/auth.py)"
        if "{id}" in route.path:
            assert rule.startswith("owner:"), f"{method} {route.path} takes an id but is not `owned`"


def test_nothing_is_served_beside_the_table(server: Running) -> None:
    app = build_app(server.services)
    assert {type(route).__name__ for route in app.app.routes} == {"_IncludedRouter"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("method", "route"), OWNED, ids=NAMES)
def test_a_stranger_gets_404_as_if_it_were_missing(
    server: Running, mine: Belongings, method: str, route: APIRoute
) -> None:
    thing = rule_of(route).removeprefix("owner:")
    assert thing in mine.ids, f"give `mine` a {thing} so that {method} {route.path} is tested"
    id = mine.ids[thing]
    with server.http("stranger") as http:
        foreign = request(http, method, route, id, mine)
        missing = request(http, method, route, id[:-6] + "000000", mine)
    assert foreign.status_code == 404, foreign.text
    assert missing.status_code == 404, missing.text
    ours, theirs = (reply.json()["error"] for reply in (foreign, missing))
    assert (ours["type"], ours["code"], ours["param"]) == (theirs["type"], theirs["code"], theirs["param"])
    assert ours["message"].replace(id, "") == theirs["message"].replace(id[:-6] + "000000", "")


@pytest.mark.parametrize(("method", "route"), [x for x in OWNED if x[0] == "GET"])
def test_the_owner_gets_it(server: Running, mine: Belongings, method: str, route: APIRoute) -> None:
    with server.http("victim") as http:
        id = mine.ids[rule_of(route).removeprefix("owner:")]
        assert request(http, method, route, id, mine).status_code == 200


def test_lists_show_only_ones_own(server: Running, mine: Belongings) -> None:
    lists = [route.path for method, route in TABLE if method == "GET" and rule_of(route) == "member"]
    with server.http("stranger") as http:
        for path in lists:
            if "{" in path:
                continue
            reply = http.get(path)
            assert reply.status_code == 200, path
            if reply.headers["content-type"] == "application/json":
                for id in mine.ids.values():
                    assert id not in reply.text, f"{path} shows {id}"
