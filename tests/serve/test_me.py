"""A person takes everything back over HTTP: in the midst of an answer, with a key, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.serve.conftest import Running, Walk, serving
from tutee.settings import Settings


@pytest.fixture
def own(make_home: Callable[..., Settings]) -> Iterator[Running]:
    with serving(make_home()) as running:
        yield running


def erase(http: httpx.Client, handle: str) -> httpx.Response:
    return http.request("DELETE", "/v1/tutee/me", json={"handle": handle})


def test_a_person_goes_with_chats_feedback_files_and_running_answers(own: Running) -> None:
    with own.http("berta") as berta, own.http("anna") as anna:
        others, walk, secret = Walk(berta), Walk(anna), Walk(anna)
        kept = others.ask("Mine stays.", max_tokens=3)["messages"][0]
        thumb = {"kind": "thumb", "value": 1}
        answer = walk.ask("Hello.", max_tokens=3)["messages"][0]
        walk.call("POST", "/feedback", {**thumb, "message_id": answer["id"]})
        others.call("POST", "/feedback", {**thumb, "message_id": kept["id"]})
        file = {"file": ("notes.jsonl", b"{}\n", "application/json")}
        id = anna.post("/v1/files", files=file, data={"purpose": "user_data"}).json()["id"]
        secret.conversation = secret.call("POST", "/conversations", {"temporary": True})["id"]
        secret.ask("Forget this.", max_tokens=3)
        running = walk.generate(walk.say("And on and on")["id"], max_tokens=3000, ignore_eos=True)["messages"][0]
        gone = erase(anna, "anna").json()
        assert (gone["deleted"], gone["removed"]["conversation"], gone["removed"]["feedback"]) == (True, 1, 1)
        assert own.services.answers.count == 0
        for path in (f"tutee/messages/{running['id']}", f"tutee/conversations/{secret.conversation}", f"files/{id}"):
            assert anna.get(f"/v1/{path}").status_code == 404
        assert anna.get("/v1/tutee/conversations").json()["data"] == []
        assert anna.get("/v1/tutee/feedback").json()["data"] == []
        assert len(berta.get("/v1/tutee/feedback").json()["data"]) == 1
        assert berta.get(f"/v1/tutee/messages/{kept['id']}").json()["content"] == kept["content"]
    assert sum(actor.handle.startswith("erased-") for actor in own.services.store.actors.list()) == 1


@pytest.mark.parametrize("body", [{}, {"handle": ""}, {"handle": "berta"}, {"handle": 1}, []])
def test_it_takes_ones_own_name_to_do_it(own: Running, body: object) -> None:
    with own.http("anna") as anna:
        Walk(anna).ask("Hello.", max_tokens=3)
        reply = anna.request("DELETE", "/v1/tutee/me", json=body)
        assert reply.status_code == 400
        assert len(anna.get("/v1/tutee/conversations").json()["data"]) == 1


def test_an_erased_persons_key_ends_and_a_shared_one_cannot_do_it(make_home: Callable[..., Settings]) -> None:
    with serving(make_home(host="0.0.0.0", admin_key="sk-admin")) as public:
        store = public.services.store
        mine, _ = store.keys.add(store.actors.get_or_create("berta").id, "laptop")
        with public.http(headers={"authorization": f"Bearer {mine}"}) as http:
            assert erase(http, "berta").status_code == 200
            assert http.get("/v1/tutee/me").status_code == 401
        with public.http(headers={"authorization": "Bearer sk-admin"}) as admin:
            project = admin.get("/v1/organization/projects").json()["data"][0]["id"]
            path = f"/v1/organization/projects/{project}/service_accounts"
            made = admin.post(path, json={"name": "robot"}).json()
        with public.http(headers={"authorization": f"Bearer {made['api_key']['value']}"}) as robot:
            handle = robot.get("/v1/tutee/me").json()["actor"]["handle"]
            refused = erase(robot, handle)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "shared_account")
