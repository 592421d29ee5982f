"""Webhooks: told once what happened, signed so that the official client believes it, again when nobody listened."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

from tests.serve.conftest import Running
from tutee.errors import InvalidInput
from tutee.serve.webhooks.destinations import check_url, pinned
from tutee.serve.webhooks.sender import LONGEST, _next, sign
from tutee.store.webhooks import Due, announce


@dataclass
class Receiver:
    """Somebody who listens: what came, and what is answered (200 when nothing else was said)."""

    url: str = ""
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def wait(self, count: int, seconds: float = 300.0) -> list[tuple[dict[str, str], bytes]]:
        deadline = time.monotonic() + seconds
        while len(self.came) < count:
            assert time.monotonic() < deadline, f"{len(self.came)} of {count} deliveries came"
            time.sleep(0.02)
        return self.came


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.came.append((dict(self.headers.items()), body))
            self.send_response(found.answers.pop(0) if found.answers else 200)
            self.send_header("location", f"{found.url}/elsewhere")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


def listen(sdk: openai.OpenAI, receiver: Receiver, *types: str) -> Any:
    return sdk.webhooks.create(name="mine", url=receiver.url, event_types=list(types))  # type: ignore[arg-type]


def finished_job(running: Running, status: str = "succeeded", handle: str = "owner") -> str:
    """A job that comes to its end, as a worker would end it."""
    jobs = running.services.store.jobs
    job = jobs.add("supervised", "tiny", {}, actor_id=running.services.store.actors.get_or_create(handle).id)
    jobs.finish(job.id) if status == "succeeded" else jobs.fail(job.id, "x", "y")
    return job.id


def test_the_official_client_believes_what_comes_and_nothing_else(
    server: Running, sdk: openai.OpenAI, receiver: Receiver
) -> None:
    made = listen(sdk, receiver, "fine_tuning.job.succeeded")
    failed, good = finished_job(server, "failed"), finished_job(server)
    [(headers, body)] = receiver.wait(1)
    event = sdk.webhooks.unwrap(body, headers, secret=made.signing_secret)
    assert (event.type, event.object, event.data.id) == ("fine_tuning.job.succeeded", "event", good)  # type: ignore[union-attr]
    assert headers["webhook-id"] == event.id
    assert failed.encode() not in body
    with pytest.raises(openai.InvalidWebhookSignatureError):
        sdk.webhooks.unwrap(body.replace(good.encode(), failed.encode()), headers, secret=made.signing_secret)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        sdk.webhooks.unwrap(body, headers, secret="whsec_" + "A" * 43 + "=")
    sdk.webhooks.delete(made.id)


def test_another_persons_jobs_are_not_told(server: Running, sdk: openai.OpenAI, receiver: Receiver) -> None:
    made = listen(sdk, receiver, "fine_tuning.job.succeeded")
    finished_job(server, handle="somebody")
    mine = finished_job(server)
    assert mine.encode() in receiver.wait(1)[0][1]
    assert len(receiver.came) == 1
    sdk.webhooks.delete(made.id)


def test_what_was_not_taken_comes_again_under_the_same_id(
    server: Running, sdk: openai.OpenAI, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutee.serve.webhooks.sender.WAITS", (0.0,))
    receiver.answers = [500, 302]
    made = listen(sdk, receiver, "fine_tuning.job.failed")
    finished_job(server, "failed")
    came = receiver.wait(3)
    assert len({headers["webhook-id"] for headers, _ in came}) == 1
    assert len({body for _, body in came}) == 1
    time.sleep(1.5)
    assert len(receiver.came) == 3, "a redirect was followed, or a delivery was repeated"
    sdk.webhooks.delete(made.id)


def test_what_was_not_committed_is_not_told(server: Running, sdk: openai.OpenAI, receiver: Receiver) -> None:
    store = server.services.store
    made = listen(sdk, receiver, "fine_tuning.job.succeeded")
    owner = store.actors.get_or_create("owner").id

    def killed_before_the_commit() -> None:
        with store.database.write() as session:
            announce(session, owner, "fine_tuning.job.succeeded", "ftjob-never")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        killed_before_the_commit()
    finished_job(server)
    assert b"ftjob-never" not in receiver.wait(1)[0][1]
    sdk.webhooks.delete(made.id)


def test_an_endpoint_is_made_changed_tested_and_forgotten(
    server: Running, sdk: openai.OpenAI, receiver: Receiver
) -> None:
    made = listen(sdk, receiver, "batch.completed", "batch.completed")
    assert made.signing_secret.startswith("whsec_")
    assert made.event_types == ["batch.completed"]
    seen = sdk.webhooks.retrieve(made.id)
    assert not hasattr(seen, "signing_secret")
    assert made.signing_secret.endswith(str(seen.signing_secret_hint)[-4:])
    assert made.id in [row.id for row in sdk.webhooks.list()]
    assert sdk.webhooks.update(made.id, name="other", event_types=["eval.run.failed"]).name == "other"
    assert sdk.webhooks.retrieve(made.id).event_types == ["eval.run.failed"]
    assert "batch.failed" in sdk.webhooks.event_types.list().data

    receiver.answers = [418]
    assert sdk.webhooks.test(made.id, event_type="batch.failed").status_code == 418
    turned = sdk.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    assert turned.signing_secret != made.signing_secret
    sdk.webhooks.test(made.id, event_type="batch.failed")
    headers, body = receiver.came[-1]
    for secret in (made.signing_secret, turned.signing_secret):
        sdk.webhooks.unwrap(body, headers, secret=secret)
    assert sdk.webhooks.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.webhooks.retrieve(made.id)


def test_an_endpoint_that_cannot_be_reached_fails_its_test(sdk: openai.OpenAI) -> None:
    made = sdk.webhooks.create(name="x", url="http://127.0.0.1:1/", event_types=["batch.failed"])
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.webhooks.test(made.id, event_type="batch.failed")
    assert refused.value.code == "webhook_unreachable"
    sdk.webhooks.delete(made.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "not a url"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"event_types": []}, "event_types"),
        ({"event_types": ["video.completed"]}, "event_types[0]"),
        ({"name": ""}, "name"),
    ],
)
def test_bad_endpoints_name_the_field(sdk: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    asked = {"name": "x", "url": "https://example.com/", "event_types": ["batch.failed"], **fields}
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.webhooks.create(**asked)
    assert refused.value.param == param


# --- where it may go -----------------------------------------------------------------------------------------------

INSIDE = ("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "fd00::1",
          "::ffff:10.0.0.1", "224.0.0.1", "100.64.0.1")  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_behind_a_public_server_are_refused_by_number_and_by_name(address: str) -> None:
    shown = f"[{address}]" if ":" in address else address
    with pytest.raises(InvalidInput):
        check_url(f"https://{shown}/", private=False)
    with pytest.raises(InvalidInput):
        pinned("https://innocent.example/", private=False, resolve=lambda name, port: ["93.184.216.34", address])
    assert pinned("https://innocent.example/", private=True, resolve=lambda name, port: [address]).name


def test_what_was_checked_is_what_is_connected_to() -> None:
    found = pinned("https://hook.example:8443/a?b=c", private=False, resolve=lambda name, port: ["93.184.216.34"])
    assert (found.url, found.host, found.name) == (
        "https://93.184.216.34:8443/a?b=c",
        "hook.example:8443",
        "hook.example",
    )
    local = pinned("http://[::1]:8080/", private=True, resolve=lambda name, port: ["::1"])
    assert (local.url, local.host) == ("http://[::1]:8080/", "[::1]:8080")
    with pytest.raises(InvalidInput, match="https"):
        check_url("http://hook.example/", private=False)

    def nowhere(name: str, port: int) -> list[str]:
        raise OSError("not found")

    with pytest.raises(InvalidInput, match="cannot be found"):
        pinned("https://nowhere.example/", private=False, resolve=nowhere)


def test_names_in_any_script_are_asked_for_in_ascii() -> None:
    found = pinned("https://bücher.example/", private=False, resolve=lambda name, port: ["93.184.216.34"])
    assert found.host == found.name == "xn--bcher-kva.example"
    with pytest.raises(InvalidInput, match="cannot be found"):
        pinned(f"https://{'ü' * 70}.example/", private=False, resolve=lambda name, port: ["93.184.216.34"])


def test_after_three_days_it_is_given_up() -> None:
    now = time.time()
    due = Due("d", "evt_1", {}, attempts=0, created_at=now, url="", secrets=[])
    assert _next(due) == pytest.approx(now + 5, abs=2)
    assert _next(Due("d", "evt_1", {}, attempts=50, created_at=now, url="", secrets=[])) == pytest.approx(
        now + 3600, abs=2
    )
    assert _next(Due("d", "evt_1", {}, attempts=80, created_at=now - LONGEST, url="", secrets=[])) is None


def test_the_signature_is_the_one_of_the_standard() -> None:
    """The example of the Standard Webhooks specification's reference implementations."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    made = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
