"""What every method has in common: its settings, what it is given, and what it hands back.

A method's settings are a few dataclasses side by side (`parts`): the trainer's, the loop's, the loss's own. People give
them as one flat `key=value` list; `choose` deals the keys out, checks them, and refuses what the method does not have
or what would change nothing. Knows no method by name (`methods.py`).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from tutee.errors import InvalidInput
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained
from tutee.train.options import read_options
from tutee.train.progress import Report, silent
from tutee.train.rewards import Term

Part = TypeVar("Part")

Applies = Callable[[Mapping[str, Any]], bool]


def _compares(s: Mapping[str, Any]) -> bool:
    """Whether answers to one question are compared with each other: by GRPO's baselines and by best-of-n."""
    return s.get("baseline", "none") != "none" or "keep" in s


NEEDS: tuple[tuple[tuple[str, ...], Applies, str], ...] = (
    (("rank", "alpha"), lambda s: not s["full"], "full=true trains all weights, so there is no adapter"),
    (("momentum",), lambda s: s["optimizer"] == "muon", "it is Muon's: add optimizer=muon"),
    (("group",), lambda s: s["group"] > 1 or not _compares(s), "an answer alone has no others to be compared with"),
    (("resample",), lambda s: s["resample"] == 0 or s["group"] > 1, "an answer alone differs from no other"),
    (
        ("recompute",),
        lambda s: s["recompute"] is not False or s["temperature"] == 1.0,
        "at another temperature than 1 answers are always scored again",
    ),
    (
        ("clip_low", "clip_high", "dual_clip", "value_clip"),
        lambda s: s["epochs"] * s["minibatches"] > 1,
        "with one update a step nothing has moved that could be clipped: add epochs or minibatches",
    ),
    (("kl_estimator", "corrected_kl"), lambda s: s["kl"] > 0, "there is no KL in the loss: add kl"),
    (("weights",), lambda s: s["most_weight"] is not None, "there are no importance weights: add most_weight"),
    (("kl_horizon",), lambda s: s["kl_target"] is not None, "the price of KL stays: add kl_target"),
    (("ptx_rows",), lambda s: s["ptx"] > 0, "nothing is mixed in: add ptx and ptx_data"),
    (("format_weight",), lambda s: s["format"] is not None, "no format is wanted: add format"),
)
"""Settings that do nothing under others: (names, whether they apply, why not)."""


class Chosen:
    """The settings of one run, complete and checked: `chosen[LoopConfig]` is one part of them."""

    def __init__(self, parts: Mapping[type, Any]) -> None:
        self._parts = dict(parts)

    def __getitem__(self, kind: type[Part]) -> Part:
        return cast(Part, self._parts[kind])

    def has(self, kind: type) -> bool:
        """Whether the method has these settings at all."""
        return kind in self._parts

    def flat(self) -> dict[str, Any]:
        """Every setting by its name."""
        return {f.name: getattr(part, f.name) for part in self._parts.values() for f in fields(part)}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A servable version: adapter or whole model after an epoch (or every so many steps), and its numbers."""

    step: int
    folder: Path
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a run. The last checkpoint is the result. `too_long` are 1-based lines that were left out, `notes`
    what a person should know of the data."""

    checkpoints: tuple[Checkpoint, ...]
    steps: int
    trained_tokens: int
    skipped_steps: int = 0
    too_long: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What a method's runner is given. A runner that is called again on the same folder goes on where it stopped.

    Args:
        model: what to start from; None for a method that makes its own.
        examples, validation: rows as the method's reader made them.
        folder: the run's own: checkpoints, metrics, versions.
        terms: judges of sampled answers that no setting can name, beside those that the settings do.
        start: the adapter over `model` that training goes on from; a fresh one when None.
    """

    model: Pretrained | None
    examples: Sequence[Any]
    chosen: Chosen
    folder: Path
    validation: Sequence[Any] = ()
    seed: int = 0
    report: Report = silent
    terms: Sequence[Term] = ()
    start: Lora | None = None

    @property
    def base(self) -> Pretrained:
        """The model, for methods that need one."""
        assert self.model is not None
        return self.model


@dataclass(frozen=True, slots=True)
class Method:
    """One way to train.

    Args:
        says: what it does, one line.
        loss: the effective loss in one line.
        data: what one row of the file holds, as an example.
        parts: settings dataclasses; a name that two of them have (a seed) is set in both.
        defaults: (rows, what was given) -> settings that differ from their dataclass.
        read: (stream, param) -> rows; errors name the line.
        run: the work.
        result: what the last checkpoint is: something to chat with, or a reward model.
        stages: what its run goes through. samples: it asks the model, so a gym task can stand in for its data.
    """

    name: str
    says: str
    loss: Callable[[Chosen], str]
    data: str
    parts: tuple[type, ...]
    read: Callable[[BinaryIO, str], Iterator[Any]]
    run: Callable[[Task], Trained]
    defaults: Callable[[int, Mapping[str, Any]], Mapping[str, Any]] = lambda rows, given: {}
    needs_model: bool = True
    result: Literal["policy", "reward"] = "policy"
    stages: tuple[str, ...] = ("train",)
    samples: bool = False

    def settings(self) -> dict[str, type]:
        """Every setting and the dataclass that holds it."""
        return {f.name: part for part in self.parts for f in fields(part) if f.init and f.name != "seed"}


def choose(method: Method, raw: Mapping[str, Any], rows: int, seed: int = 0, param: str = "settings") -> Chosen:
    """The method's settings with `raw` over its defaults.

    Args:
        rows: how many examples there are; some defaults depend on it.
        param: what to call the settings in errors.

    Raises:
        InvalidInput: a name the method does not have (the error lists what it has), a value of another type or out of
            range, or a setting that would change nothing.
    """
    known = method.settings()
    for name in raw:
        if name not in known:
            raise InvalidInput(
                f"'{param}.{name}' is not a setting of {method.name}. It has: {', '.join(sorted(known))}.",
                param=f"{param}.{name}",
                code="unknown_parameter",
            )
    given = {**method.defaults(rows, raw), **raw}
    parts: dict[type, Any] = {}
    for part in method.parts:
        own = {f.name: given[f.name] for f in fields(part) if f.name in given}
        if any(f.name == "seed" for f in fields(part)):
            own["seed"] = seed
        parts[part] = read_options(part, own, param)
    chosen = Chosen(parts)
    flat = chosen.flat()
    for names, applies, why in NEEDS:
        idle = next((name for name in names if name in raw and not applies(flat)), None)
        if idle is not None:
            raise InvalidInput(
                f"'{param}.{idle}' would change nothing: {why}.", param=f"{param}.{idle}", code="inapplicable_parameter"
            )
    return chosen


def describe(method: Method, chosen: Chosen, rows: int) -> str:
    """The effective loss and the settings that matter, in one line."""
    flat = chosen.flat()
    shown = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in flat.items()}
    what = "all weights" if flat.get("full") else f"LoRA rank {shown.get('rank')} alpha {shown.get('alpha')}"
    parts = [f"{method.name}: {method.loss(chosen)}", what]
    if "learning_rate" in flat:
        rate = f"{shown['optimizer']} at {shown['learning_rate']}"
        parts.append(f"{rate}, {shown['schedule']} after {flat['warmup']:.0%} warm-up")
    if "prompts" in flat:
        parts.append(f"{shown['prompts']} questions × {shown['group']} answers a step")
    elif "epochs" in flat:
        parts.append(f"{shown['epochs']} × {rows} rows in steps of {shown['batch_size']}")
    return " · ".join(parts)


@dataclass(frozen=True, slots=True)
class SettingHelp:
    """A setting as `--help` shows it."""

    name: str
    kind: str
    default: Any
    says: str


def setting_help(method: Method) -> list[SettingHelp]:
    """Every setting of the method with its default for a small file and the sentence under it in the code."""
    defaults = method.defaults(100, {})
    out = []
    for name, part in method.settings().items():
        field = next(f for f in fields(part) if f.name == name)
        default = defaults.get(name, field.default)
        says = next((docs[name] for kind in method.parts if name in (docs := _field_docs(kind))), "")
        out.append(SettingHelp(name, _kind(get_type_hints(part)[name]), default, says))
    return out


def _kind(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(str(value) for value in get_args(hint))
    options = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    return "|".join(_kind(kind) if get_origin(kind) else getattr(kind, "__name__", str(kind)) for kind in options)


@lru_cache
def _field_docs(kind: type) -> Mapping[str, str]:
    """The string under each field of a dataclass, which Python itself throws away."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        docs |= _own_docs(base)
    return docs


def _own_docs(kind: type) -> dict[str, str]:
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, following in zip(definition.body, definition.body[1:], strict=False):
        text = following.value if isinstance(following, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant) and isinstance(text.value, str):
            assert isinstance(field.target, ast.Name)
            docs[field.target.id] = " ".join(text.value.split())
    return docs
