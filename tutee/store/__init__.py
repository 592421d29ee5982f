"""Everything that must survive, in one database (SQLite by default, Postgres by URL) and one home folder.

`store = Store.open(url, home)`; `store.close()`. Groups and their methods follow. Every method is one transaction and
thread-safe; it returns detached rows of `store.schema` or frozen dataclasses of `store.records`. `Page` iterates and
has `.has_more`; lists are newest first unless `order="asc"`. A foreign or unknown id is NotFound; `actor_id=None` in a
getter skips the owner check, for workers only.

actors         get_or_create(handle, kind="user") -> Actor · get(id) -> Actor · by_handle(handle) -> Actor|None
               list() -> list[Actor]                                             (the local owner's handle is "owner")
consents       set(actor_id, scope, granted, policy_version=None) · granted(actor_id, scope) -> bool
               all(scope) -> {actor_id: bool}     (bulk; scopes store, eval, train, share)
conversations  create(actor_id, title=None, system=None, temporary=False) -> StoredConversation  (temporary is refused)
               get(id, actor_id) · get_many(ids) -> {id: …} · list(actor_id, limit=20, after=None, query=None) -> Page
               update(id, actor_id, *, title=, train=, head_message_id=) · delete(id, actor_id) -> Erasure
messages       add(conversation_id, parent_id, role, content, author_actor_id, state="complete", edited_from=None, *,
               head=True, title=None) -> StoredMessage   (content None and state "streaming" for an answer)
               get(id, actor_id) · get_all(ids, actor_id) · tree(conversation_id, actor_id) -> [StoredMessage] (parents
               first) · path(id) -> [StoredMessage] root first · paths(ids) -> {id: [StoredMessage]} (bulk, constant
               queries) · said(id) -> [(role, text)] root first
answers        begin(conversation_id, parent_id, actor_id, [Start], Showing) -> (presentation id, [StoredMessage])
               save([Piece]) -> [generation ids that are gone]   (many answers at once; a Piece with an End ends one)
generations    start(message_id, version_id, *, prompt_ids, sampling, weights_sha256, tokenizer_sha256, template_sha256,
               propensity=1.0, arm=None, experiment_id=None) -> str
               append(id, text, token_ids, logprobs) · text(id) -> str so far
               finish(id, finish_reason, *, ttft_s=None, tokens_per_s=None) -> StoredMessage
                 (stop, length → complete; abort → stopped; error → error; a second finish changes nothing)
               interrupted() -> [message ids] now marked · get(id, actor_id=None) · get_many(ids) -> {id: …}
presentations  create(actor_id, generation_ids, layout="single", blind=False, selection_policy="random", order_seed=0,
               selection_prob=1.0) -> StoredPresentation · get(id, actor_id) · for_message(message_id) -> …|None
               get_many(ids) -> {id: StoredPresentation}
feedback       add(kind, actor_id, *, presentation_id=None, message_id=None, conversation_id=None, payload=None,
               strength=None, confidence=None, reasons=(), comment=None, client=None) -> Feedback
               get(id, actor_id=None) · list(actor_id=None, kind=None, since=None, limit=20, after=None) -> Page
               live(actor_id=None, kind=None, since=None, conversation_id=None) -> [Feedback] oldest first; newest per
                 (actor, kind, target); a withdrawn thumb stays in as value 0 · erase(id, actor_id) -> Erasure
               erasures() -> [Erasure] · get_many(ids)
persons        erase(actor_id) -> ErasedPerson (everything they said, sent or were answered; see `persons.RULES`)
versions       add(name, kind, *, weights_sha256, folder, parent_id=None, job_id=None, snapshot_sha=None,
               state="candidate", card=None) -> ModelVersion
               ensure_base(name, weights_sha256, folder) (idempotent; the first one goes live)
               get(id | name | number) · ref(id) · list(state=None) oldest first · live() · alias(name) · aliases()
               set_state(id, state) · set_card(id, card) · descendants(id) · learned_from(feedback_id)
               feedback_counts() -> {version_id: int} · erased_counts() · feedback_ids(version_id) -> [str]
jobs           add(method, model, config, *, actor_id=None, training_file=None, validation_file=None, suffix=None,
               seed=0, snapshot_sha=None, metadata=None) -> Job · get(id)
               list(limit=20, after=None, metadata=None) -> Page
               lease(worker_id, seconds, alone=True) -> Job|None · renew(id, worker_id, seconds) -> bool (False: lost)
               release(id, worker_id, died=False) back to the queue
               finish(id, *, version_id=None, fine_tuned_model=None, trained_tokens=None, result_files=())
               fail(id, code, message, param=None) · mark_cancelled(id)
               request_cancel(id) -> Job · cancelled(id) -> bool (was it asked for?) · set_snapshot(id, sha)
               set_hyperparameters(id, values)
               event(id, level, message, data=None) · events(id, limit=20, after=None) -> Page
               metric(id, step, {name: value}) · metrics(id) -> {name: [(step, value|None)]} (same step again replaces)
               checkpoint(id, step, path, metrics, name=None) · checkpoints(id, limit=10, after=None) -> Page
               progress(id, stage, step, total_steps, eta_s=None, *, stages=None, health=None)
               running() -> Job|None
snapshots      add(sha, kind, counts, rows, *, query=None, code_sha=None, parent_sha=None, split_rule=None) -> Snapshot
               (rows: SnapshotItem; the same sha again returns what is there) · get(sha) · list()
               rows(sha, split=None) · containing(feedback_id) -> [(Snapshot, SnapshotRow)]
evaluations    add(version_id, baseline_id, suite, n, estimate, ci_lo, ci_hi, method, role, detail=None) -> Evaluation
               list(version_id) -> [Evaluation] · for_versions(ids) -> {id: [Evaluation]}
gates          add(candidate_id, baseline_id, verdict, reasons, *, checks=(), e_value=None, policy_sha=None) -> Gate
               latest(version_id) -> Gate|None · latest_for(ids) -> {id: Gate} · get(id)
evals          add(actor_id, name, data_source_config, testing_criteria, metadata=None) -> Eval · get(id, actor_id=None)
               list(actor_id, limit=20, after=None, order="asc", by_update=False) -> Page · delete(id, actor_id)
               update(id, actor_id, *, name=, metadata=) -> Eval
eval_runs      add(eval_id, actor_id, name, data_source, data_sha, *, model=, version_id=, runner="server", metadata=)
               get(id, actor_id=None, eval_id=None) · list(eval_id, limit=20, after=None, order="asc", status=None)
               next(runner="server", but=()) -> EvalRun|None · begin(id, version_id) · cancelled(id) -> bool
               save(id, [GradedRow], usage) -> bool · positions(id) -> {done} · finish(id, status, error=None)
               request_cancel(id, actor_id) · delete(id, actor_id) · items(id, …) -> Page · item(run_id, id)
               newest(eval_id, data_sha, version_id, status=None) -> EvalRun|None
gate_evals     set(eval_id, actor_id, data_source, data_sha, role, margin) -> GateEval · delete(eval_id)
               list() -> [(GateEval, Eval)]
promotions     promote(version_id, actor_id, why=None, override=False, gate_id=None) -> Promotion (code gate_not_passed)
               rollback(actor_id, why=None) -> Promotion (code nothing_to_roll_back) · list() newest first
files          add(content: bytes | binary stream, filename, purpose, actor_id, max_bytes=None) -> File
               get(id, actor_id=None) · list(actor_id=None, purpose=None, limit=20, after=None, order="desc") -> Page
               open(id, actor_id=None) -> binary stream · path(id) -> Path · delete(id, actor_id=None)
completions    add(id, actor_id, model, messages, response, metadata=None) -> Completion · get(id, actor_id)
               list(actor_id, model=None, metadata=None, limit=20, after=None, order="asc") -> Page
               update(id, actor_id, metadata) · delete(id, actor_id)
responses      add(actor_id, body, items, *, previous_id=None, conversation_id=None) -> Response · get(id, actor_id)
               finish(id, body) -> bool · delete(id, actor_id) · input_items(id, actor_id, limit, after, order) -> Page
               thread(id, actor_id) -> [item] from the thread's first response on · find_item(id, actor_id) -> item|None
               interrupted(error) -> int
openai_conversations  add(actor_id, metadata, items=()) -> OpenAIConversation · get · update(id, actor_id, metadata)
               delete · add_items(id, actor_id, items) · items(id, actor_id, limit, after, order) -> Page
               said(id, actor_id) -> [item] · item / delete_item(id, item_id, actor_id) · find_item(id, actor_id)
audit          add(action, object, actor_id=None, detail=None, before_sha=None, after_sha=None) · list()
               verify() -> int|None
keys           add(actor_id, name) -> (key text, ApiKey) · find(key text) -> ApiKey|None · list(actor_id) · revoke(id)

Outside the groups: `store.backup.backup / restore`, `store.doctor.examine`.
"""

from tutee.store.records import Page, SnapshotItem, StoredConversation, StoredGeneration, StoredMessage
from tutee.store.store import Store

__all__ = ["Page", "SnapshotItem", "Store", "StoredConversation", "StoredGeneration", "StoredMessage"]
