# /// script
# dependencies = ["instructor>=1.10"]
# ///
"""instructor in its three modes, and the official SDK's own .parse()."""

import os

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field

MODEL = os.environ["CLIENT_MODEL"]
TALK = [{"role": "user", "content": "Ada is 36 years old."}]


class Person(BaseModel):
    name: str = Field(max_length=16)
    age: int = Field(ge=0, le=150)


for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(OpenAI(), mode=mode)
    person = client.chat.completions.create(
        model=MODEL, messages=TALK, response_model=Person, temperature=0, max_tokens=64, max_retries=1
    )
    assert isinstance(person, Person)
    print(mode.name, person)

parsed = OpenAI().chat.completions.parse(model=MODEL, messages=TALK, response_format=Person, temperature=0)
assert isinstance(parsed.choices[0].message.parsed, Person)
