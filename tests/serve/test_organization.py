"""Projects and their keys through the official client's admin methods."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.serve.conftest import Running, home_at, serving


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory, roomy_model) -> Iterator[Running]:  # type: ignore[no-untyped-def]
    settings = home_at(tmp_path_factory.mktemp("admin"), roomy_model, host="0.0.0.0", admin_key="the-admin-key")
    with serving(settings) as running:
        yield running


def client(running: Running, key: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{running.url}/v1", api_key=key, admin_api_key=key, max_retries=0, _strict_response_validation=True
    )


@pytest.fixture
def admin(public: Running) -> openai.OpenAI:
    return client(public, "the-admin-key")


def test_a_project_with_a_key_from_first_to_last(public: Running, admin: openai.OpenAI) -> None:
    projects = admin.admin.organization.projects
    project = projects.create(name="Bakery")
    assert (project.name, project.status) == ("Bakery", "active")
    account = projects.service_accounts.create(project.id, name="oven", expires_in_seconds=3600)
    assert account.api_key is not None
    assert account.api_key.expires_at == pytest.approx(account.created_at + 3600, abs=60)
    baker = client(public, account.api_key.value)
    assert baker.files.list().data == []

    [key] = projects.api_keys.list(project.id)
    assert (key.id, key.name, key.owner.type) == (account.api_key.id, "oven", "service_account")
    assert key.last_used_at is not None
    assert account.api_key.value.startswith(key.redacted_value[:-1])
    assert account.api_key.value not in key.to_json()
    assert [row.id for row in projects.service_accounts.list(project.id)] == [account.id]

    projects.api_keys.update(key.id, project_id=project.id, scopes=["api.all.read"])
    with pytest.raises(openai.PermissionDeniedError) as refused:
        baker.files.create(file=("a", b"x"), purpose="user_data")
    assert refused.value.code == "insufficient_permissions"
    projects.api_keys.update(key.id, project_id=project.id, scopes=[])
    baker.files.create(file=("a", b"x"), purpose="user_data")

    assert projects.api_keys.delete(key.id, project_id=project.id).deleted
    with pytest.raises(openai.AuthenticationError):
        baker.files.list()
    with pytest.raises(openai.NotFoundError):
        projects.api_keys.retrieve(key.id, project_id=project.id)


def test_a_project_is_renamed_limited_and_archived(public: Running, admin: openai.OpenAI) -> None:
    projects = admin.admin.organization.projects
    project = projects.create(name="Old name")
    assert projects.update(project.id, name="New name").name == "New name"
    [limit] = projects.rate_limits.list_rate_limits(project.id)
    changed = projects.rate_limits.update_rate_limit(limit.id, project_id=project.id, max_requests_per_1_minute=1)
    assert changed.max_requests_per_1_minute == 1
    value = projects.service_accounts.create(project.id, name="x").api_key.value  # type: ignore[union-attr]
    limited = client(public, value)
    limited.models.list()
    with pytest.raises(openai.RateLimitError):
        limited.models.list()
    assert projects.archive(project.id).status == "archived"
    with pytest.raises(openai.BadRequestError) as refused:
        projects.service_accounts.create(project.id, name="late")
    assert refused.value.code == "project_archived"
    with pytest.raises(openai.AuthenticationError):
        limited.models.list()
    assert project.id not in [row.id for row in projects.list()]
    assert project.id in [row.id for row in projects.list(include_archived=True)]


def test_a_key_of_one_project_is_not_found_in_another(admin: openai.OpenAI) -> None:
    projects = admin.admin.organization.projects
    first, second = projects.create(name="1"), projects.create(name="2")
    account = projects.service_accounts.create(first.id, name="x")
    for call in (projects.service_accounts.retrieve, projects.service_accounts.delete):
        with pytest.raises(openai.NotFoundError):
            call(account.id, project_id=second.id)


def test_people_s_keys_are_no_service_accounts(public: Running, admin: openai.OpenAI) -> None:
    projects, store = admin.admin.organization.projects, public.services.store
    project = projects.create(name="Mixed")
    person = store.actors.get_or_create("ada", project_id=project.id)
    made = []
    for i in range(2):  # in turns, so that each page of keys holds one of a person's
        _, own = store.keys.add(person.id, f"own {i}")
        made.append(projects.service_accounts.create(project.id, name=f"service {i}").id)
    assert [row.id for row in projects.service_accounts.list(project.id, limit=1)] == made
    for call in (projects.service_accounts.retrieve, projects.service_accounts.delete):
        with pytest.raises(openai.NotFoundError):
            call(own.id, project_id=project.id)
    assert own.id in [row.id for row in projects.api_keys.list(project.id)]


def test_only_the_operator_administers(public: Running, admin: openai.OpenAI) -> None:
    account = admin.admin.organization.projects.service_accounts.create("proj_default", name="x")
    with pytest.raises(openai.PermissionDeniedError):
        client(public, account.api_key.value).admin.organization.projects.list()  # type: ignore[union-attr]


def test_bad_input_names_the_field(admin: openai.OpenAI) -> None:
    projects = admin.admin.organization.projects
    with pytest.raises(openai.BadRequestError) as unnamed:
        projects.create(name="")
    assert unnamed.value.param == "name"
    with pytest.raises(openai.BadRequestError) as archived:
        projects.archive("proj_default")
    assert archived.value.param == "project_id"
    key = projects.service_accounts.create("proj_default", name="x")
    with pytest.raises(openai.BadRequestError) as unknown:
        projects.api_keys.update(key.id, project_id="proj_default", scopes=["files.fly"])
    assert unknown.value.param == "scopes[0]"
