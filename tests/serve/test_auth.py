"""Who may come in: loopback without login, other hosts with keys; foreign Host headers and other web sites refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
import pytest

from tests.serve.conftest import Running, serving
from tutee.errors import InvalidInput
from tutee.serve.access.auth import Doorkeeper
from tutee.serve.app import open_services
from tutee.settings import Settings


def test_any_key_is_taken_on_loopback(server: Running) -> None:
    for key in (None, "Bearer sk-anything", "Basic abc"):
        with server.http(headers={"authorization": key} if key else {}) as http:
            assert http.get("/v1/tutee/me").json()["actor"]["handle"] == "owner"


def test_the_actor_header_names_a_local_person(server: Running) -> None:
    with server.http("anna") as http:
        me = http.get("/v1/tutee/me").json()
        assert me["actor"]["handle"] == "anna"
        assert me["actor"]["kind"] == "user"
        assert me["consent"] == {"train": False}
        assert http.put("/v1/tutee/consent", json={"train": True}).json() == {"train": True}
        assert http.get("/v1/tutee/me").json()["consent"] == {"train": True}
    with server.http() as http:
        assert http.get("/v1/tutee/me").json()["consent"] == {"train": True}
        assert http.put("/v1/tutee/consent", json={"train": "yes"}).json()["error"]["param"] == "train"


@pytest.mark.parametrize("handle", ["a b", "-x", "a" * 65, "a/b", "<script>"])
def test_a_handle_is_a_short_plain_word(server: Running, handle: str) -> None:
    with server.http(handle) as http:
        reply = http.get("/v1/tutee/me")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "X-Tutee-Actor"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_a_foreign_host_header_is_refused(http: httpx.Client, host: str) -> None:
    reply = http.get("/v1/tutee/me", headers={"host": host})
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1:9", "[::1]:80", "tutee.localhost"])
def test_names_of_this_machine_are_accepted(http: httpx.Client, host: str) -> None:
    assert http.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
    ],
)
def test_a_write_from_another_site_is_refused(http: httpx.Client, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/v1/tutee/conversations"),
        ("DELETE", "/v1/tutee/feedback/x"),
        ("POST", "/v1/files"),
    ):
        reply = http.request(method, path, headers=headers)
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "cross_site_request"


def test_our_own_page_may_write(server: Running) -> None:
    with server.http(headers={"origin": server.url, "sec-fetch-site": "same-origin"}) as http:
        assert http.post("/v1/tutee/conversations", json={}).status_code == 200


def test_another_host_needs_an_admin_key(make_home: Callable[..., Settings]) -> None:
    settings = make_home(host="0.0.0.0")
    with pytest.raises(InvalidInput, match="TUTEE_ADMIN_KEY"), open_services(settings):
        pass
    Doorkeeper.check_settings(replace(settings, admin_key="secret"))


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory, roomy_model) -> Iterator[Running]:  # type: ignore[no-untyped-def]
    """A server set up as for a host that others reach (its socket is still on loopback)."""
    from tests.serve.conftest import home_at

    settings = home_at(tmp_path_factory.mktemp("public"), roomy_model, host="0.0.0.0", admin_key="the-admin-key")
    with serving(settings) as running:
        yield running


def keyed(running: Running, key: str | None) -> httpx.Client:
    return running.http(headers={"authorization": f"Bearer {key}"} if key else {})


@pytest.mark.parametrize("authorization", [None, "Basic the-admin-key", "Bearer", "Bearer wrong", "the-admin-key"])
def test_without_a_good_key_nothing_is_answered(public: Running, authorization: str | None) -> None:
    with public.http(headers={"authorization": authorization} if authorization else {}) as http:
        for path in ("/v1/models", "/v1/tutee/me", "/metrics", "/v1/files"):
            reply = http.get(path)
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "invalid_api_key"
        assert http.get("/health").status_code == 200
        assert http.get("/").status_code == 200


def test_keys_belong_to_people_and_only_the_admin_operates(public: Running) -> None:
    store = public.services.store
    key, row = store.keys.add(store.actors.get_or_create("berta").id, "laptop")
    with keyed(public, key) as http:
        assert http.get("/v1/tutee/me").json()["actor"]["handle"] == "berta"
        # The actor header is for loopback only: a key is one person's.
        assert http.get("/v1/tutee/me", headers={"x-tutee-actor": "owner"}).json()["actor"]["handle"] == "berta"
        for path in ("/v1/tutee/rollback", "/v1/tutee/improve", "/v1/tutee/versions/0/promote"):
            reply = http.post(path, json={})
            assert reply.status_code == 403
            assert reply.json()["error"]["code"] == "insufficient_permissions"
        store.keys.revoke(row.id)
        assert http.get("/v1/tutee/me").status_code == 401
    with keyed(public, "the-admin-key") as http:
        assert http.get("/v1/tutee/me").json()["actor"]["handle"] == "owner"
        assert http.post("/v1/tutee/rollback", json={}).json()["error"]["code"] == "nothing_to_roll_back"
