"""The first schema: the whole flywheel, so that nothing that must be known at serve time has to be added later.

Frozen: a change of the schema is a new file in this folder, never an edit here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

APPEND_ONLY = {"feedback": "UPDATE", "generation_chunk": "UPDATE", "consent": "UPDATE", "audit": "UPDATE OR DELETE"}


def column(kind: Any, name: str, *, to: str | None = None, cascade: bool = False, **options: Any) -> sa.Column[Any]:
    """A column that is NOT NULL unless it says otherwise; `to` names the column that it refers to."""
    key = [] if to is None else [sa.ForeignKey(to, ondelete="CASCADE" if cascade else None)]
    options.setdefault("nullable", False)
    return sa.Column(name, kind, *key, **options)


word = partial(column, sa.String())
text = partial(column, sa.Text())
whole = partial(column, sa.BigInteger().with_variant(sa.Integer, "sqlite"))
real = partial(column, sa.Double())
flag = partial(column, sa.Boolean())
json = partial(column, sa.JSON())
data = partial(column, sa.LargeBinary())


def upgrade() -> None:
    """Make every table and the triggers that keep events as they were written."""
    create_tables()
    for table, events in APPEND_ONLY.items():
        forbid(table, events)


# fmt: off
def create_tables() -> None:
    """Parents before children."""
    op.create_table("actor",
        word("id", primary_key=True), word("kind"), text("handle", unique=True), text("cohort", nullable=True),
        real("created_at"))
    op.create_table("audit",
        whole("seq", primary_key=True, autoincrement=False), word("prev_hash"), word("hash"),
        word("actor_id", nullable=True), word("action"), text("object"), json("detail"),
        word("before_sha", nullable=True), word("after_sha", nullable=True), real("created_at"))
    op.create_table("blob", word("sha256", primary_key=True), data("data"))
    op.create_table("erasure",
        word("id", primary_key=True), word("actor_id", nullable=True, index=True),
        word("conversation_id", nullable=True), json("feedback_ids"), json("tainted_versions"), real("requested_at"),
        word("retrained_job_id", nullable=True), word("proof_sha", nullable=True), real("closed_at", nullable=True))
    op.create_table("eval_suite",
        word("id", primary_key=True), word("name"), word("version"), word("data_sha"), word("scorer_sha"),
        word("direction"), word("gate_role"))
    op.create_table("experiment",
        word("id", primary_key=True), json("arms"), json("allocation"), word("salt"), word("test"), real("alpha"),
        real("started_at", nullable=True), real("stopped_at", nullable=True), text("stop_reason", nullable=True))
    op.create_table("scrub",
        word("id", primary_key=True), word("blob_sha", index=True), word("tool"), word("version"), json("entities"),
        word("out_blob_sha"))
    op.create_table("snapshot",
        word("sha", primary_key=True), word("kind"), json("counts"), whole("row_count"), text("query", nullable=True),
        word("code_sha", nullable=True), word("parent_sha", to="snapshot.sha", nullable=True),
        text("split_rule", nullable=True), real("created_at"))
    op.create_table("api_key",
        word("id", primary_key=True), word("actor_id", to="actor.id", index=True), text("name"),
        word("sha256", unique=True), word("prefix"), real("created_at"), real("revoked_at", nullable=True))
    op.create_table("completion",
        word("id", primary_key=True), word("actor_id", to="actor.id", index=True), text("model"), json("messages"),
        json("response"), json("metadata"), real("created_at"))
    op.create_table("consent",
        word("id", primary_key=True), word("actor_id", to="actor.id"), word("scope"), flag("granted"),
        word("policy_version", nullable=True), real("created_at"), word("supersedes", nullable=True, unique=True))
    op.create_index("consent_actor_scope", "consent", ["actor_id", "scope"])
    op.create_table("conversation",
        word("id", primary_key=True), word("actor_id", to="actor.id"), text("title", nullable=True),
        word("system_sha", to="blob.sha256", nullable=True, index=True), flag("train", nullable=True),
        word("head_message_id", nullable=True), real("created_at"), real("updated_at"),
        real("retention_until", nullable=True))
    op.create_index("conversation_recent", "conversation", ["actor_id", "updated_at", "id"])
    op.create_table("file",
        word("id", primary_key=True), word("actor_id", to="actor.id", nullable=True, index=True),
        word("sha256", index=True), whole("bytes"), text("filename"), word("purpose"), real("created_at"))
    op.create_table("job",
        word("id", primary_key=True), word("actor_id", to="actor.id", nullable=True), word("method"), word("status"),
        text("model"), json("config"), word("config_sha"), word("training_file", nullable=True),
        word("validation_file", nullable=True), text("suffix", nullable=True), whole("seed"),
        word("snapshot_sha", to="snapshot.sha", nullable=True), json("metadata"), word("reference_id", nullable=True),
        word("reward_version_id", nullable=True), word("version_id", nullable=True),
        text("fine_tuned_model", nullable=True), json("result_files"), whole("trained_tokens", nullable=True),
        json("progress"), json("error", nullable=True), word("code_commit", nullable=True),
        word("environment_sha", nullable=True), json("hardware", nullable=True), json("cost", nullable=True),
        real("created_at"), real("started_at", nullable=True), real("finished_at", nullable=True),
        flag("cancel_requested"), text("lease_owner", nullable=True), real("lease_expires", nullable=True),
        whole("attempts"))
    op.create_index("job_status", "job", ["status", "id"])
    op.create_table("presentation",
        word("id", primary_key=True), word("actor_id", to="actor.id", index=True), word("layout"), flag("blind"),
        word("selection_policy"), real("selection_prob"), whole("order_seed"), real("created_at"))
    op.create_table("snapshot_row",
        word("snapshot_sha", to="snapshot.sha", primary_key=True),
        whole("position", primary_key=True, autoincrement=False), word("row_sha"), word("split"), word("kind"),
        word("feedback_id", nullable=True, index=True), word("actor_id", nullable=True, index=True),
        json("payload", nullable=True))
    op.create_table("completion_tag",
        word("completion_id", to="completion.id", cascade=True, primary_key=True), text("key", primary_key=True),
        text("value"))
    op.create_index("completion_tag_value", "completion_tag", ["key", "value"])
    op.create_table("job_checkpoint",
        word("id", primary_key=True), word("job_id", to="job.id", index=True), whole("step"), text("path"),
        json("metrics"), text("fine_tuned_model_checkpoint", nullable=True), real("created_at"))
    op.create_table("job_event",
        whole("seq", primary_key=True), word("id", unique=True), word("job_id", to="job.id"), word("type"),
        word("level"), text("message"), json("data", nullable=True), real("created_at"))
    op.create_index("job_event_order", "job_event", ["job_id", "seq"])
    op.create_table("job_metric",
        word("job_id", to="job.id", primary_key=True), word("name", primary_key=True),
        whole("step", primary_key=True, autoincrement=False), real("value", nullable=True))
    op.create_table("message",
        word("id", primary_key=True), word("conversation_id", to="conversation.id"),
        word("parent_id", to="message.id", nullable=True, index=True), word("role"),
        word("blob_sha", to="blob.sha256", nullable=True, index=True), word("state"), whole("sibling_index"),
        word("author_actor_id", to="actor.id", nullable=True), word("generation_id", nullable=True, unique=True),
        word("edited_from", to="message.id", nullable=True, index=True), flag("synthetic"),
        word("language", nullable=True), real("created_at"),
        sa.UniqueConstraint("conversation_id", "parent_id", "sibling_index", name="message_sibling"))
    op.create_index("message_state", "message", ["state"])
    op.create_table("model_version",
        word("id", primary_key=True), whole("number", unique=True), text("name", unique=True), word("kind"),
        word("state"), word("parent_id", to="model_version.id", nullable=True),
        word("job_id", to="job.id", nullable=True, index=True),
        word("snapshot_sha", to="snapshot.sha", nullable=True, index=True), word("weights_sha256"), text("folder"),
        json("card"), text("signature", nullable=True), real("created_at"))
    op.create_table("alias",
        word("name", primary_key=True), word("version_id", to="model_version.id"), real("updated_at"))
    op.create_table("evaluation",
        word("id", primary_key=True), word("version_id", to="model_version.id", index=True),
        word("baseline_id", to="model_version.id", nullable=True), word("suite"), whole("n"),
        real("estimate", nullable=True), real("ci_lo", nullable=True), real("ci_hi", nullable=True), text("method"),
        word("role"), json("detail"), real("created_at"))
    op.create_table("feedback",
        word("id", primary_key=True), word("kind"), word("actor_id", to="actor.id"),
        word("presentation_id", to="presentation.id", nullable=True, index=True),
        word("message_id", to="message.id", nullable=True, index=True),
        word("conversation_id", to="conversation.id", nullable=True, index=True), word("target_id"), json("payload"),
        whole("strength", nullable=True), real("confidence", nullable=True), json("reasons"),
        text("comment", nullable=True), text("client", nullable=True), real("weight_override", nullable=True),
        real("created_at", index=True), word("supersedes", nullable=True, unique=True),
        sa.CheckConstraint("strength IS NULL OR (strength >= 0 AND strength <= 3)", name="feedback_strength"))
    op.create_index("feedback_target", "feedback", ["actor_id", "kind", "target_id"])
    op.create_table("gate",
        word("id", primary_key=True), word("candidate_id", to="model_version.id", index=True),
        word("baseline_id", to="model_version.id", nullable=True), word("policy_sha", nullable=True), word("verdict"),
        json("reasons"), json("checks"), real("e_value", nullable=True), real("created_at"))
    op.create_table("generation",
        word("id", primary_key=True), word("message_id", to="message.id", unique=True),
        word("version_id", to="model_version.id", index=True), word("weights_sha256"), word("tokenizer_sha256"),
        word("template_sha256"), word("prompt_sha", to="blob.sha256", index=True), json("sampling"),
        word("arm", nullable=True), word("experiment_id", to="experiment.id", nullable=True), real("propensity"),
        data("token_ids", nullable=True), data("logprobs", nullable=True), whole("n_tokens", nullable=True),
        real("seq_logprob", nullable=True), real("ref_logprob", nullable=True), word("finish_reason", nullable=True),
        real("ttft_s", nullable=True), real("tokens_per_s", nullable=True), word("moderation_id", nullable=True),
        json("tool_calls", nullable=True), json("retrieved_ids", nullable=True), real("created_at"),
        real("finished_at", nullable=True))
    op.create_table("generation_chunk",
        whole("seq", primary_key=True), word("generation_id", to="generation.id", index=True), data("text"),
        data("token_ids"), data("logprobs"))
    op.create_table("preference_pair",
        word("id", primary_key=True), word("prompt_sha"), word("chosen_sha"), word("rejected_sha"),
        word("feedback_id", to="feedback.id", cascade=True, index=True), real("margin", nullable=True),
        real("weight"), real("rater_reliability", nullable=True),
        word("on_policy_of", to="model_version.id", nullable=True), real("propensity_weight", nullable=True))
    op.create_table("presentation_item",
        word("presentation_id", to="presentation.id", primary_key=True),
        whole("position", primary_key=True, autoincrement=False),
        word("generation_id", to="generation.id", index=True))
    op.create_table("promotion",
        whole("seq", primary_key=True), word("id", unique=True), word("alias"),
        word("gate_id", to="gate.id", nullable=True), word("from_version", to="model_version.id", nullable=True),
        word("to_version", to="model_version.id"), word("stage"), flag("override"), word("actor_id", nullable=True),
        text("why", nullable=True), word("undoes", nullable=True, unique=True), real("created_at"))
    op.create_table("review",
        word("id", primary_key=True), word("feedback_id", to="feedback.id", cascade=True, index=True),
        word("reviewer_id", to="actor.id"), word("verdict"), json("labels"), real("created_at"))
# fmt: on


def forbid(table: str, events: str) -> None:
    """Refuse UPDATE (or DELETE) on a table of events."""
    said = f"{table} is append-only"
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{said}'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE {events} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_append_only()"
        )
        return
    for event in events.split(" OR "):
        op.execute(
            f"CREATE TRIGGER {table}_append_only_{event.lower()} BEFORE {event} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{said}'); END"
        )
