"""T87: two projects on one server, walked along the route table itself: what is one's is a 404 for the other.

The keys are service accounts that the admin API made. A route whose path takes an id and that this walk cannot ask
fails the test. The model is a tiny random one: the case looks at the walls, not at what the model says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from fastapi.routing import APIRoute

from tests.conftest import write_tiny_model
from tests.serve.belongings import Belongings, belongings_of, request
from tests.serve.conftest import Running, add_candidate, home_at, serving
from tutee.serve.access.auth import RULE
from tutee.serve.app import routes

pytestmark = pytest.mark.conformance("T87")

TABLE = [(method, route) for route in routes() for method in sorted(route.methods or ())]


def rule_of(route: APIRoute) -> str:
    return str((route.openapi_extra or {}).get(RULE, ""))


OWNED = [(method, route) for method, route in TABLE if rule_of(route).startswith("owner:")]


@dataclass
class Tenant:
    """A project, its key, and one of each thing in it."""

    project: str
    http: httpx.Client
    sdk: openai.OpenAI
    things: Belongings


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    shelf = tmp_path_factory.mktemp("shelf") / "tiny"
    shelf.mkdir()
    write_tiny_model(shelf, context=4096)
    home = tmp_path_factory.mktemp("tenants") / "home"
    settings = home_at(home, shelf, host="0.0.0.0", admin_key="the-admin-key", webhooks_to_private=True)
    with serving(settings) as started:
        yield started


@pytest.fixture(scope="module")
def tenants(running: Running) -> Iterator[tuple[Tenant, Tenant]]:
    made = [_tenant(running, name) for name in ("first", "second")]
    yield made[0], made[1]
    for tenant in made:
        tenant.http.close()


def _tenant(running: Running, name: str) -> Tenant:
    admin = openai.OpenAI(base_url=f"{running.url}/v1", api_key="-", admin_api_key="the-admin-key", max_retries=0)
    project = admin.admin.organization.projects.create(name=name)
    account = admin.admin.organization.projects.service_accounts.create(project.id, name=name)
    assert account.api_key is not None
    http = running.http(headers={"authorization": f"Bearer {account.api_key.value}"})
    sdk = openai.OpenAI(base_url=f"{running.url}/v1", api_key=account.api_key.value, max_retries=0)
    return Tenant(project.id, http, sdk, belongings_of(http, sdk))


BY_NAME = ("/v1/models/{model:path}", "/v1/tutee/versions/{name}", "/v1/tutee/versions/{name}/gate", "/{path:page}")


def test_every_path_with_an_id_is_walked_or_is_the_operators() -> None:
    for method, route in TABLE:
        if "{" in route.path and route.path not in BY_NAME:
            assert rule_of(route) == "operator" or rule_of(route).startswith("owner:"), f"{method} {route.path}"


@pytest.mark.parametrize(("method", "route"), OWNED, ids=[f"{method} {route.path}" for method, route in OWNED])
def test_what_is_ones_is_missing_for_the_other(tenants: tuple[Tenant, Tenant], method: str, route: APIRoute) -> None:
    first, second = tenants
    thing = rule_of(route).removeprefix("owner:")
    assert thing in first.things.ids, f"teach tests/serve/belongings.py to make a {thing}"
    id = first.things.ids[thing]
    foreign = request(second.http, method, route, id, first.things)
    assert foreign.status_code == 404, foreign.text
    inner = [name for name in first.things.inner if name in route.path]
    if inner:  # a foreign run in an eval of one's own
        mixed = request(second.http, method, route, second.things.ids[thing], first.things)
        assert mixed.status_code == 404, mixed.text


@pytest.mark.parametrize(("method", "route"), [each for each in OWNED if each[0] == "GET"])
def test_both_see_their_own(tenants: tuple[Tenant, Tenant], method: str, route: APIRoute) -> None:
    for tenant in tenants:
        id = tenant.things.ids[rule_of(route).removeprefix("owner:")]
        assert request(tenant.http, method, route, id, tenant.things).status_code == 200


def test_lists_show_nothing_of_the_other(tenants: tuple[Tenant, Tenant]) -> None:
    first, second = tenants
    for method, route in TABLE:
        if method == "GET" and rule_of(route) == "member" and "{" not in route.path:
            reply = second.http.get(route.path)
            assert reply.status_code == 200, route.path
            for id in (*first.things.ids.values(), *first.things.inner.values(), first.project):
                assert id not in reply.text, f"{route.path} shows {id}"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/fine_tuning/jobs", {"model": "tiny", "training_file": "FILE"}),
        ("/v1/batches", {"input_file_id": "FILE", "endpoint": "/v1/completions", "completion_window": "24h"}),
        ("/v1/responses", {"model": "chat", "input": "x", "previous_response_id": "RESPONSE"}),
        ("/v1/responses", {"model": "chat", "input": "x", "conversation": "OPENAI_CONVERSATION"}),
        ("/v1/tutee/feedback", {"kind": "thumb", "message_id": "MESSAGE", "value": 1}),
        ("/v1/chat/completions", {"model": "MODEL", "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"model": "MODEL", "prompt": "x"}),
        ("/v1/embeddings", {"model": "MODEL", "input": "x"}),
        ("/v1/responses", {"model": "MODEL", "input": "x"}),
        ("/v1/fine_tuning/jobs", {"model": "MODEL", "training_file": "OWN"}),
    ],
)
def test_ids_of_the_other_in_a_body_are_as_good_as_missing(
    running: Running, tenants: tuple[Tenant, Tenant], path: str, body: dict[str, Any]
) -> None:
    first, second = tenants
    foreign = {name.upper(): id for name, id in first.things.ids.items()} | {"MODEL": _model_of(running, first)}
    missing = {name: f"{id[:-6]}000000" for name, id in foreign.items()}
    own = {"OWN": second.things.ids["file"]}
    replies = [second.http.post(path, json=_filled(body, ids | own)) for ids in (foreign, missing)]
    assert replies[0].status_code in (400, 404), replies[0].text
    said, expected = (reply.json()["error"] for reply in replies)
    assert [said[key] for key in ("type", "code", "param")] == [expected[key] for key in ("type", "code", "param")]


def _filled(body: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    return {key: ids.get(value, value) if isinstance(value, str) else value for key, value in body.items()}


def test_a_model_of_the_other_is_no_model(running: Running, tenants: tuple[Tenant, Tenant]) -> None:
    first, second = tenants
    name = _model_of(running, first)
    assert name in [model.id for model in first.sdk.models.list()]
    assert name not in [model.id for model in second.sdk.models.list()]
    for path in (f"/v1/models/{name}", f"/v1/tutee/versions/{name}"):
        assert first.http.get(path).status_code == 200
        assert second.http.get(path).status_code == 404


def _model_of(running: Running, tenant: Tenant) -> str:
    """A version that a job of the tenant's made."""
    store, name = running.services.store, f"ft:tiny:{tenant.project}:model"
    if name not in [version.name for version in store.versions.list()]:
        add_candidate(running, name, job_id=tenant.things.ids["job"])
    return name
