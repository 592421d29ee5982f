"""Which weights answer to which name, and which engine runs them.

`chat` is an alias row of the store: a thread looks at it twice a second and moves when somebody promotes or rolls back,
from the page, the API or another process; answers that already stream finish on the version they began with. Adapters
are loaded into the engine of their base the first time they are named, full-weight versions get an engine of their own
(`bases.py`). Does not know chat messages, HTTP or people.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from pathlib import Path

from tutee.engine.engine import Engine
from tutee.engine.stats import EngineStats
from tutee.engine.upstream import Upstream, check_url
from tutee.errors import InvalidInput, NotFound, TuteeError, Unavailable
from tutee.evaluate.gate import judge
from tutee.model.lora import Lora
from tutee.model.pretrained import load_pretrained
from tutee.serve.access.acting import acting
from tutee.serve.bases import Bases
from tutee.serve.served import Served as Served
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.schema import ModelVersion

log = logging.getLogger("tutee.serve")

ALIAS = "chat"
REWARD_MODEL = "reward_model"
"""What the card of a version says that has a score where others have words."""
WATCH_SECONDS = 0.5
UPSTREAM = "upstream:"
"""Before an upstream's name for its model, where other versions have the hash of their weights."""


def answering_name(asked: str, version: ModelVersion) -> str:
    """What a reply says under `model`: the name that was asked for, or the version's own when that was an alias."""
    own = (ALIAS, version.name, version.id, str(version.number))
    return asked if asked in own else version.name


class Live:
    """Resolves names to versions with running engines. All methods may be called from any thread."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._loading = threading.RLock()
        self._bases = Bases(settings)
        self._upstreams: dict[str, Upstream] = {}
        self._chat: Served | None = None
        self._base: ModelVersion | None = None
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="live-alias", daemon=True)

    def open(self, folder: Path) -> None:
        """Load the base model in `folder` and the version behind `chat`; blocks until both can answer.

        With an upstream in the settings that is the base, and a model of ours is loaded when it is named.

        Raises:
            InvalidInput: no model that we run in `folder`; an upstream without a URL that can be used.
        """
        if self.settings.upstream:
            self._base = self._open_upstream()
        else:
            log.info("loading %s in %s", folder.name, self.settings.dtype)
            model = load_pretrained(folder, self.settings.dtype, name=folder.name)
            self._base = self.store.versions.ensure_base(model.name, model.weights_sha256, str(folder))
            self._bases.add(self._base.id, model)
        self.refresh()
        self._watcher.start()

    def close(self) -> None:
        """Stop watching and end every engine; running answers are aborted."""
        self._closed.set()
        self._bases.close()
        for upstream in self._upstreams.values():
            upstream.close()

    @property
    def base(self) -> Served:
        """The base model that the server was started with."""
        assert self._base is not None, "open() comes first"
        return self.serve(self._base)

    @property
    def chat(self) -> Served:
        """What `chat` means now."""
        if self._chat is None:
            raise Unavailable("The model is still being loaded.")
        return self._chat

    @property
    def ready(self) -> bool:
        """Whether answers can be made."""
        return self._chat is not None and not self._closed.is_set()

    @property
    def engines(self) -> list[Engine | Upstream]:
        """Every engine that runs, and every upstream in use."""
        return [*self._bases.engines, *self._upstreams.values()]

    @property
    def stats(self) -> list[EngineStats]:
        """Theirs, and the totals of engines that were closed."""
        return [*self._bases.stats, *(upstream.stats for upstream in self._upstreams.values())]

    def resolve(self, name: str) -> Served:
        """The version called `name`: `chat`, a version's name, id or number, or an alias of one.

        Loads what is not loaded yet, which can take seconds.

        Raises:
            NotFound: code `model_not_found`, param `model`.
            InvalidInput: it is a reward model (code `not_a_chat_model`).
        """
        if name == ALIAS:
            return self.chat
        version = self.find(name)
        if version.card.get("kind") == REWARD_MODEL:
            message = f"'{name}' is a reward model: it judges answers and writes none. Name it in a grader."
            raise InvalidInput(message, param="model", code="not_a_chat_model")
        return self.serve(version)

    def find(self, name: str) -> ModelVersion:
        """The row of a name, without loading anything; one that another project made does not exist. Raises as
        `resolve`."""
        unknown = NotFound(f"The model '{name}' does not exist.", param="model", code="model_not_found")
        try:
            version = self.store.model_aliases.version(name)
        except NotFound:
            raise unknown from None
        if version.state == "revoked" or not acting.get().sees(version):
            raise unknown
        return version

    def serve(self, version: ModelVersion) -> Served:
        """`version` with its engine, loaded if need be."""
        root = self.root(version)
        if root.kind == "upstream":
            with self._loading:
                return Served(version, self._connect(root), None)
        base = self._bases.find(root.id)
        if base is None or version.id not in base.engine.versions:  # else nobody waits for what others load
            with self._loading:
                base = self._bases.open(root)
                if version.id not in base.engine.versions:
                    folder, model = self.settings.home / version.folder, base.model
                    load = partial(Lora.load, folder, model.config, model.weights_sha256)
                    base.engine.add_version(version.id, load)
        base.engine.prepare(version.id)
        return Served(version, base.engine, base.model, base.lease)

    def root(self, version: ModelVersion) -> ModelVersion:
        """The version whose weights an adapter lies over: itself when it is no adapter."""
        while version.kind == "adapter":
            if version.parent_id is None:
                raise Unavailable(f"Version {version.name} is an adapter without a parent.", code="broken_version")
            version = self.store.versions.get(version.parent_id)
        return version

    def trainable_root(self, version: ModelVersion) -> ModelVersion:
        """`root`, if its weights are here; else raises InvalidInput (code `upstream_cannot`)."""
        root = self.root(version)
        if root.kind == "upstream":
            message = (
                f"'{root.name}' cannot be trained here: another server holds its weights and gives no token ids. What "
                "people say about its answers is kept; start tutee with a model of its own to learn from that."
            )
            raise InvalidInput(message, param="model", code="upstream_cannot")
        return root

    def unload(self, version: ModelVersion) -> None:
        """Take no new requests for an adapter; those that run finish on it."""
        with self._loading:
            for engine in self._bases.engines:
                if version.id in engine.versions and version.kind == "adapter":
                    engine.remove_version(version.id)

    def refresh(self) -> None:
        """Look at the alias now, not in half a second."""
        with self._loading:
            version = self.store.versions.alias(ALIAS)
            if self._chat is not None and self._chat.version.id == version.id:
                return
            self._chat = self.serve(version)
            log.info("chat is now version %s (%s)", version.number, version.name)

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_SECONDS):
            try:
                self.refresh()
                self._bases.close_unused()
            except TuteeError as error:  # keep serving what we have; the row may be repaired
                log.error("the live version cannot be loaded: %s", error.message)
            except Exception:
                log.exception("the live version cannot be looked up")

    def _open_upstream(self) -> ModelVersion:
        """The version that the upstream of the settings is; a new one beside a live one can be compared with it."""
        url, model = check_url(self.settings.upstream), self.settings.upstream_model
        version = self.store.versions.ensure_base(model, UPSTREAM + model, url, kind="upstream")
        try:
            self._connect(version).introduce()
        except TuteeError as error:  # it may come up later, or list what it serves under other names
            log.warning("the upstream cannot be asked yet: %s", error.message)
        if version.state == "candidate" and self.store.gates.latest(version.id) is None:
            judge(self.store, version.id)
        return version

    def _connect(self, version: ModelVersion) -> Upstream:
        """The connection to an upstream; its key is only sent to the URL of the settings."""
        settings = self.settings
        known = self._upstreams.get(version.id)
        if known is not None:
            return known
        ours = settings.upstream != "" and version.folder == check_url(settings.upstream)
        upstream = Upstream(
            version.folder,
            version.weights_sha256.removeprefix(UPSTREAM),
            version=version.id,
            key=os.environ[settings.upstream_key_env] if ours and settings.upstream_key_env else "",
            max_running=settings.max_batch,
        )
        self._upstreams[version.id] = upstream
        return upstream
