"""Keys and projects off loopback: scopes, ends, limits, and walls between projects."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest

from tests.serve.conftest import Running, home_at, serving
from tutee.serve.access.auth import RULE
from tutee.serve.access.limits import Bucket, Limits, RateLimited, duration
from tutee.serve.access.scopes import ASKING, scopes_of
from tutee.serve.app import routes
from tutee.store.keys import GROUPS, SCOPES, grants
from tutee.store.schema import Project

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
MakeKey = Callable[..., str]


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory, roomy_model) -> Iterator[Running]:  # type: ignore[no-untyped-def]
    """A server set up as for a host that others reach."""
    settings = home_at(tmp_path_factory.mktemp("keys"), roomy_model, host="0.0.0.0", admin_key="the-admin-key")
    with serving(settings) as running:
        yield running


@pytest.fixture
def make_key(public: Running) -> MakeKey:
    def make(person: str = "service", project: str = "proj_default", **limits: object) -> str:
        store = public.services.store
        actor = store.actors.get_or_create(person, project_id=project)
        return store.keys.add(actor.id, "test", **limits)[0]  # type: ignore[arg-type]

    return make


def keyed(running: Running, key: str, **headers: str) -> httpx.Client:
    return running.http(headers={"authorization": f"Bearer {key}", **headers})


def code(reply: httpx.Response) -> object:
    return reply.status_code, reply.json()["error"]["code"]


# --- scopes --------------------------------------------------------------------------------------------------------


def test_every_route_has_a_scope_that_exists_and_none_only_where_no_key_matters() -> None:
    for route in routes():
        rule = (route.openapi_extra or {}).get(RULE)
        for method in route.methods or ():
            needed = scopes_of(method, route.path)
            assert needed is not None, f"{method} {route.path} is not in the table of tutee/serve/access/scopes.py"
            assert needed or rule in ("public", "operator"), f"{method} {route.path}"
            assert set(needed) <= set(SCOPES), f"{method} {route.path}"


def test_reading_is_less_than_writing_and_nothing_opens_another_group() -> None:
    for group, verbs in GROUPS.items():
        assert grants(["all.read"], f"{group}.read")
        assert not grants(["all.read"], f"{group}.{verbs[1]}")
        assert not grants([f"{group}.read"], f"{group}.{verbs[1]}")
        assert grants([f"{group}.write"], f"{group}.read")
        for other in GROUPS:
            assert (group == other) == grants([f"{group}.write"], f"{other}.read")


def test_a_missing_scope_is_403_and_says_which(public: Running, make_key: MakeKey) -> None:
    with keyed(public, make_key(scopes=["all.read"])) as http:
        assert http.get("/v1/files").status_code == 200
        assert http.get("/v1/models").status_code == 200
        reply = http.post("/v1/chat/completions", json=CHAT)
        assert code(reply) == (403, "insufficient_permissions")
        assert "model.request" in reply.json()["error"]["message"]
    with keyed(public, make_key(scopes=["api.model.request"])) as http:
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
        for path in ("/v1/files", "/v1/models", "/v1/fine_tuning/jobs", "/v1/tutee/me", "/metrics"):
            assert code(http.get(path)) == (403, "insufficient_permissions"), path


def test_no_route_opens_without_a_key_or_with_a_scope_of_another_group(public: Running, make_key: MakeKey) -> None:
    with (
        public.http() as nobody,
        keyed(public, make_key(scopes=["files.write"])) as filing,
        keyed(public, make_key(scopes=["evals.write"])) as judging,
    ):
        asked = [route for route in routes() if (route.openapi_extra or {}).get(RULE) != "public"]
        for route in asked:
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            for method in route.methods or ():
                filed = any(scope.startswith("files") for scope in scopes_of(method, route.path) or ())
                other = judging if filed else filing
                assert code(nobody.request(method, path)) == (401, "invalid_api_key"), f"{method} {path}"
                assert code(other.request(method, path)) == (403, "insufficient_permissions"), f"{method} {path}"
    assert len(asked) > 60


JUDGE = {"type": "score_model", "name": "j", "model": "chat", "input": [{"role": "user", "content": "Good?"}]}
EXACT = {"type": "string_check", "name": "s", "input": "a", "reference": "a", "operation": "eq"}
WRITING = [f"{group}.write" for group in ("batches", "evals", "files", "fine_tuning", "tutee")]


def work_that_asks_models(http: httpx.Client) -> Iterator[httpx.Response]:
    """Every way to have models asked that is no request to a model itself."""

    def made(path: str, body: object) -> str:
        reply = http.post(path, json=body)
        assert reply.status_code < 300, reply.text
        return str(reply.json()["id"])

    def uploaded(purpose: str, line: object) -> str:
        content = json.dumps(line).encode()
        reply = http.post("/v1/files", data={"purpose": purpose}, files={"file": ("a.jsonl", content)})
        return str(reply.json()["id"])

    rows = {"type": "file_content", "content": [{"item": {"x": "a"}}]}
    asking = {"type": "completions", "model": "chat", "source": rows}
    asking |= {
        "input_messages": {"type": "template", "template": CHAT["messages"]},
        "sampling_params": {"max_completion_tokens": 2},
    }
    config = {"type": "custom", "item_schema": {"type": "object"}}
    exact, judged = (
        made("/v1/evals", {"name": "e", "data_source_config": config, "testing_criteria": [criterion]})
        for criterion in (EXACT, JUDGE | {"pass_threshold": 0.5})
    )
    jsonl = {"type": "jsonl", "source": rows}
    assert http.post(f"/v1/evals/{exact}/runs", json={"data_source": jsonl}).status_code == 201
    graders = "/v1/fine_tuning/alpha/graders/run"
    assert http.post(graders, json={"grader": EXACT, "model_sample": "a"}).status_code == 200

    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    batch = {"endpoint": line["url"], "completion_window": "24h", "input_file_id": uploaded("batch", line)}
    yield http.post("/v1/batches", json=batch)
    yield http.post(f"/v1/evals/{exact}/runs", json={"data_source": asking})
    yield http.post(f"/v1/evals/{judged}/runs", json={"data_source": jsonl})
    yield http.post(graders, json={"grader": JUDGE, "model_sample": "a"})
    file = uploaded("fine-tune", {"messages": CHAT["messages"]})
    method = {"type": "reinforcement", "reinforcement": {"grader": JUDGE}}
    yield http.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file, "method": method})
    talk = made("/v1/tutee/conversations", {})
    said = made(f"/v1/tutee/conversations/{talk}/messages", {"content": "Hi", "parent_id": None})
    body = {"parent_id": said, "sampling": {"max_tokens": 1}}
    yield http.post(f"/v1/tutee/conversations/{talk}/generate", json=body)


def test_work_that_asks_models_needs_their_scope_too(public: Running, make_key: MakeKey) -> None:
    with keyed(public, make_key(scopes=WRITING)) as http:
        refused = list(work_that_asks_models(http))
    for reply in refused:
        assert code(reply) == (403, "insufficient_permissions"), reply.request.url
        assert reply.json()["error"]["message"].endswith(f"Missing scopes: {ASKING}."), reply.request.url
    with keyed(public, make_key(scopes=[*WRITING, ASKING])) as http:
        done = list(work_that_asks_models(http))
    assert [reply.text for reply in done if reply.status_code >= 300] == []
    assert len(done) == 6


def test_work_goes_on_when_the_key_that_began_it_is_revoked(public: Running, make_key: MakeKey) -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    key = make_key(scopes=["batches.write", "files.write", ASKING], requests_per_minute=2)
    with keyed(public, key) as http:
        upload = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", json.dumps(line).encode())}}
        file = http.post("/v1/files", **upload).json()["id"]  # type: ignore[arg-type]
        batch = {"endpoint": line["url"], "completion_window": "24h", "input_file_id": file}
        id = http.post("/v1/batches", json=batch).json()["id"]
        row = public.services.store.keys.find(key)
        assert row is not None
        public.services.store.keys.revoke(row.id)
        assert code(http.get(f"/v1/batches/{id}")) == (401, "invalid_api_key")
    with keyed(public, make_key()) as http:
        while (found := http.get(f"/v1/batches/{id}").json())["status"] != "completed":
            assert found["status"] in ("validating", "in_progress", "finalizing")
            time.sleep(0.1)
    assert found["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


# --- ends ----------------------------------------------------------------------------------------------------------


def test_a_key_ends_and_is_seen_to_be_used(public: Running, make_key: MakeKey) -> None:
    store = public.services.store
    with keyed(public, make_key("dora", expires_at=time.time() - 1)) as http:
        assert code(http.get("/v1/models")) == (401, "invalid_api_key")
    with keyed(public, make_key("emil", expires_at=time.time() + 60)) as http:
        assert http.get("/v1/models").status_code == 200
    [row] = store.keys.list(store.actors.get_or_create("emil").id)
    assert row.last_used_at == pytest.approx(time.time(), abs=30)


# --- projects ------------------------------------------------------------------------------------------------------


def test_keys_of_one_project_share_and_those_of_another_see_nothing(public: Running, make_key: MakeKey) -> None:
    ours, theirs = (public.services.store.projects.add(name).id for name in ("ours", "theirs"))
    first, second, stranger = (
        openai.OpenAI(base_url=f"{public.url}/v1", api_key=make_key(project=project), max_retries=0)
        for project in (ours, ours, theirs)
    )
    made = first.files.create(file=("a", b"shared"), purpose="user_data")
    assert second.files.content(made.id).read() == b"shared"
    with pytest.raises(openai.NotFoundError):
        stranger.files.retrieve(made.id)
    assert public.services.store.files.get(made.id).project_id == ours


def test_the_same_person_is_somebody_else_in_another_project(public: Running, make_key: MakeKey) -> None:
    project = public.services.store.projects.add("side").id
    with keyed(public, make_key("anna")) as http:
        made = http.post("/v1/tutee/conversations", json={}).json()["id"]
        assert http.get(f"/v1/tutee/conversations/{made}").status_code == 200
    with keyed(public, make_key("anna", project)) as http:
        assert http.get(f"/v1/tutee/conversations/{made}").status_code == 404


def test_the_project_header_must_fit_the_key(public: Running, make_key: MakeKey) -> None:
    project = public.services.store.projects.add("mine").id
    key = make_key(project=project)
    with keyed(public, key, **{"openai-project": project, "openai-organization": "org-anything"}) as http:
        assert http.get("/v1/models").status_code == 200
    with keyed(public, key, **{"openai-project": "proj_default"}) as http:
        assert code(http.get("/v1/models")) == (401, "mismatched_project")
    with keyed(public, "the-admin-key", **{"openai-project": "proj_unknown"}) as http:
        assert code(http.get("/v1/models")) == (401, "mismatched_project")


def test_the_admin_key_works_in_any_project(public: Running, make_key: MakeKey) -> None:
    project = public.services.store.projects.add("watched").id
    with keyed(public, "the-admin-key", **{"openai-project": project}) as http:
        made = http.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", b"x")}).json()
    assert public.services.store.files.get(made["id"]).project_id == project


def test_an_archived_project_answers_nobody(public: Running, make_key: MakeKey) -> None:
    project = public.services.store.projects.add("old").id
    key = make_key(project=project)
    public.services.store.projects.archive(project)
    with keyed(public, key) as http:
        assert code(http.get("/v1/models")) == (401, "project_archived")


def test_models_of_a_project_exist_only_there_until_they_are_live(public: Running, make_key: MakeKey) -> None:
    store = public.services.store
    project = store.projects.add("trainers").id
    actor = store.actors.get_or_create("service", project_id=project)
    job = store.jobs.add("supervised", "tiny", {}, actor_id=actor.id)
    base = public.services.live.base.version.id
    store.versions.add(
        "ft:tiny:theirs", "adapter", weights_sha256="1" * 64, folder="versions/x", parent_id=base, job_id=job.id
    )
    with keyed(public, make_key(project=project)) as http:
        assert "ft:tiny:theirs" in http.get("/v1/models").text
        assert http.get("/v1/models/ft:tiny:theirs").status_code == 200
    with keyed(public, make_key()) as http:
        for path in ("/v1/models", "/v1/tutee/versions"):
            assert "ft:tiny:theirs" not in http.get(path).text
        assert code(http.get("/v1/models/ft:tiny:theirs")) == (404, "model_not_found")
        assert code(http.post("/v1/chat/completions", json=CHAT | {"model": "ft:tiny:theirs"})) == (
            404,
            "model_not_found",
        )
        assert http.get("/v1/tutee/versions/ft:tiny:theirs").status_code == 404


# --- loopback ------------------------------------------------------------------------------------------------------


def test_on_loopback_foreign_projects_are_the_default_and_our_own_keys_act_as_themselves(server: Running) -> None:
    store = server.services.store
    project = store.projects.add("local").id
    key, row = store.keys.add(store.actors.get_or_create("gerd", project_id=project).id, "x", scopes=["files.read"])
    with server.http(headers={"openai-project": "proj_of_somebody_else"}) as http:
        assert http.get("/v1/tutee/me").json()["actor"]["handle"] == "owner"
    with server.http(headers={"openai-project": project}) as http:
        made = http.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", b"x")}).json()
        assert store.files.get(made["id"]).project_id == project
    with server.http(headers={"authorization": "Bearer tutee-unknown"}) as http:
        assert http.get("/v1/tutee/me").json()["actor"]["handle"] == "owner"
    with server.http(headers={"authorization": f"Bearer {key}"}) as http:
        assert http.get("/v1/files").status_code == 200
        assert code(http.get("/v1/models")) == (403, "insufficient_permissions")
        store.keys.revoke(row.id)
        assert code(http.get("/v1/files")) == (401, "invalid_api_key")


# --- limits --------------------------------------------------------------------------------------------------------


def test_requests_a_minute(public: Running, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public.services.doorkeeper.limits, "clock", lambda: 1000.0)  # no time passes
    with keyed(public, make_key("franz", requests_per_minute=2)) as http:
        first, second, third = (http.get("/v1/models") for _ in range(3))
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in (first, second)] == ["1", "0"]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-reset-requests"] == "30s"
    assert "x-ratelimit-limit-tokens" not in first.headers
    assert code(third) == (429, "rate_limit_exceeded")
    assert third.json()["error"]["type"] == "requests"
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert third.headers["x-ratelimit-remaining-requests"] == "0"


def test_tokens_a_minute_are_charged_to_all_keys_of_the_project(public: Running, make_key: MakeKey) -> None:
    store = public.services.store
    project = store.projects.add("thrifty").id
    store.projects.set_limits(project, requests_per_minute=None, tokens_per_minute=10)
    with keyed(public, make_key(project=project)) as http:
        reply = http.post("/v1/chat/completions", json=CHAT)
        used = reply.json()["usage"]["total_tokens"]
        assert used > 10
        assert reply.headers["x-ratelimit-limit-tokens"] == "10"
        assert reply.headers["x-ratelimit-remaining-tokens"] == "0"
    with keyed(public, make_key("other", project)) as http:
        refused = http.get("/v1/models")
        assert code(refused) == (429, "rate_limit_exceeded")
        assert refused.json()["error"]["type"] == "tokens"


def test_a_bucket_refills_evenly_and_can_be_overdrawn_once() -> None:
    now = 0.0
    limits = Limits(clock=lambda: now)
    account = limits.account([Project(id="p", name="p", requests_per_minute=None, tokens_per_minute=60)])
    assert account is not None
    account.admit()
    assert account.charge is not None
    account.charge(90)
    for now, left in ((0.0, "0"), (29.0, "0"), (31.0, "1"), (90.0, "60"), (500.0, "60")):  # noqa: B007
        assert account.headers()["x-ratelimit-remaining-tokens"] == left
    account.charge(60)
    with pytest.raises(RateLimited) as refused:
        account.admit()
    assert refused.value.retry_after == pytest.approx(1.0)
    assert Bucket(60, 0.0).seconds_until(60, 0.0) == 0
    assert [duration(seconds) for seconds in (0.0, 0.0171, 2.1, 62.0)] == ["0ms", "18ms", "3s", "1m2s"]
