"""Who wrote what was brought along: versions that stand for OpenAI's models, archived and without weights."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tutee.ids import new_id
from tutee.store.schema import ModelVersion


def author(session: Session, model: str) -> ModelVersion:
    """The version that stands for a model of OpenAI's; made when it is none yet."""
    name = f"imported/openai/{model}"
    known = session.scalar(select(ModelVersion).where(ModelVersion.name == name))
    if known is not None:
        return known
    last = session.scalar(select(func.max(ModelVersion.number)))
    version = ModelVersion(
        id=new_id("ver"),
        number=0 if last is None else last + 1,
        name=name,
        kind="full",
        state="archived",
        weights_sha256=f"openai:{model}",
        folder="",
        card={"imported_name": model},
    )
    session.add(version)
    session.flush()
    return version
