"""Where things live and how the process runs: one frozen dataclass, read from the environment once.

Every field has an environment variable `TUTEE_<NAME>`; command-line flags override it. Knows no other module.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tutee.errors import InvalidInput

ELSEWHERE = ("TUTEE_KERNELS",)
"""Variables that are read where they matter: by `model/compiled.py`."""
MOST = 2**31 - 1
RANGES = {
    "port": (0, 65535),
    "threads": (0, 1024),
    "max_batch": (1, 4096),
    "cache_tokens": (1, MOST),
    "max_waiting": (1, MOST),
    "stream_keepalive": (0, MOST),
    "max_body_bytes": (1, 2**40),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process of tutee needs to know of its surroundings."""

    home: Path = Path("~/.tutee")
    """Everything that must survive: database, models, versions, files, backups."""
    host: str = "127.0.0.1"
    port: int = 8000
    database_url: str = ""
    """An SQLAlchemy URL; empty means SQLite at `home/tutee.db`."""
    model: str = "smollm2-135m-instruct"
    """Name of the base model in `home/models` (the default one is fetched on first use), or an absolute folder."""
    dtype: str = "bfloat16"
    """Compute precision of the matrices: `bfloat16` (fast) or `float32` (exact: company never changes a number)."""
    precision: str = ""
    """Of the weights that answers are computed with: empty (as `dtype`), `int8` or `int4` (faster for few streams, a
    little worse; training, scoring and evaluations keep `dtype`)."""
    threads: int = 0
    """CPU threads for the model; 0 means one a core."""
    max_batch: int = 32
    """Most sequences decoded in one step."""
    cache_tokens: int = 32768
    """Tokens of keys and values kept in memory (running requests and cached prefixes)."""
    max_waiting: int = 256
    """Requests that may wait for a place in a step; beyond that the answer is 429 with `retry-after`."""
    upstream: str = ""
    """Base URL (`http://host:port/v1`) of an OpenAI-compatible server that answers instead of a model of ours."""
    upstream_model: str = ""
    """What the upstream calls the model."""
    upstream_key_env: str = ""
    """Name of the environment variable that holds the upstream's key; empty: it needs none."""
    embedding_model: str = ""
    """Folder of a model for /v1/embeddings, in the form of sentence-transformers, which has to be installed
    (`tutee[embeddings]`); empty: vectors come from the chat model's hidden states."""
    python_graders: str = "isolated"
    """People's Python graders: `isolated` (refused where no sandbox can be built), `unisolated` (the operator vouches
    for who may send them: limits, but they see this user's files) or `off`."""
    strict: bool = False
    """Whether fields that the API does not know are refused (400) instead of listed in `x-ignored-params`."""
    stream_keepalive: int = 0
    """Seconds of silence after which a stream sends a comment line, so that proxies keep it open; 0: never, because
    some clients fail on comments."""
    admin_key: str = ""
    """Key with all rights; required before a host other than loopback is served."""
    max_body_bytes: int = 64 * 1024 * 1024
    webhooks_to_private: bool = False
    """Whether webhooks may go to plain HTTP and addresses that are not public when others can reach this server."""

    def __post_init__(self) -> None:
        if self.dtype not in ("bfloat16", "float32"):
            raise InvalidInput(f"TUTEE_DTYPE is {self.dtype!r}; it must be bfloat16 or float32.", param="TUTEE_DTYPE")
        if self.precision not in ("", "int8", "int4") or (self.precision and self.dtype != "bfloat16"):
            message = (
                f"TUTEE_PRECISION is {self.precision!r}; it must be int8 or int4, with TUTEE_DTYPE bfloat16, or empty."
            )
            raise InvalidInput(message, param="TUTEE_PRECISION")
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                variable = f"TUTEE_{name.upper()}"
                message = f"{variable} is {getattr(self, name)}; it must be between {least} and {most}."
                raise InvalidInput(message, param=variable)
        if self.python_graders not in ("isolated", "unisolated", "off"):
            message = f"TUTEE_PYTHON_GRADERS is {self.python_graders!r}; it must be isolated, unisolated or off."
            raise InvalidInput(message, param="TUTEE_PYTHON_GRADERS")
        for given, needed in (("upstream", "upstream_model"), ("upstream_model", "upstream")):
            if getattr(self, given) and not getattr(self, needed):
                name = f"TUTEE_{needed.upper()}"
                raise InvalidInput(f"TUTEE_{given.upper()} is set, so {name} is needed too.", param=name)
        if self.upstream_key_env and self.upstream_key_env not in os.environ:
            message = f"TUTEE_UPSTREAM_KEY_ENV names {self.upstream_key_env}, which is not in the environment."
            raise InvalidInput(message, param="TUTEE_UPSTREAM_KEY_ENV")

    @property
    def url(self) -> str:
        """The database URL with the default filled in."""
        return self.database_url or f"sqlite:///{self.home / 'tutee.db'}"

    @property
    def base_folder(self) -> Path:
        """Folder of the base model: on the shelf in `home/models`, or the folder that `model` names."""
        given = Path(self.model).expanduser()
        return given.resolve() if given.is_absolute() else self.home / "models" / self.model

    @property
    def embedding_folder(self) -> Path | None:
        """Folder of the embedding model, if one is named."""
        return Path(self.embedding_model).expanduser().resolve() if self.embedding_model else None

    @property
    def loopback(self) -> bool:
        """Whether `host` can only be reached from this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def load_settings(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from `TUTEE_*` variables, then `overrides` that are not None.

    Raises:
        InvalidInput: an unknown `TUTEE_*` variable, or a value of the wrong kind.
    """
    environment = os.environ if environment is None else environment
    kinds = {field.name: type(getattr(Settings(), field.name)) for field in fields(Settings)}
    values: dict[str, Any] = {}
    for key, text in environment.items():
        if not key.startswith("TUTEE_") or key in ELSEWHERE:
            continue
        name = key.removeprefix("TUTEE_").lower()
        if name not in kinds:
            raise InvalidInput(f"{key} is not a setting. Settings: {', '.join(sorted(kinds))}.", param=key)
        if kinds[name] is bool:
            values[name] = _boolean(key, text)
            continue
        try:
            values[name] = kinds[name](text) if kinds[name] is int else text
        except ValueError:
            raise InvalidInput(f"{key}={text!r} must be a whole number.", param=key) from None
    values.update({name: value for name, value in overrides.items() if value is not None})
    values["home"] = Path(values.get("home") or Settings().home).expanduser().resolve()
    return Settings(**values)


def _boolean(key: str, text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise InvalidInput(f"{key}={text!r} must be true or false.", param=key)
    return known[text.lower()]
