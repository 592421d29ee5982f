# /// script
# dependencies = ["langchain-openai>=1"]
# ///
"""LangChain's ChatOpenAI: invoke, stream with usage, structured output both ways, a bound tool; and its embeddings."""

import os

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

MODEL = os.environ["CLIENT_MODEL"]


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(max_length=40)
    rating: int = Field(ge=1, le=5)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


chat = ChatOpenAI(model=MODEL, temperature=0, max_completion_tokens=64, stream_usage=True)
talk = [SystemMessage("Be kind."), HumanMessage("Say hello.")]
answer = chat.invoke(talk)
assert answer.content
assert answer.usage_metadata["total_tokens"] > 0
pieces = list(chat.stream(talk))
whole = pieces[0]
for piece in pieces[1:]:
    whole += piece
assert whole.content == answer.content, (whole.content, answer.content)
assert whole.usage_metadata["output_tokens"] == answer.usage_metadata["output_tokens"]

for method in ("json_schema", "function_calling"):
    joke = chat.with_structured_output(Joke, method=method).invoke("Tell me a joke about cats.")
    assert isinstance(joke, Joke), joke

asked = HumanMessage("What is 2 + 3?")
called = chat.bind_tools([add], tool_choice="add").invoke([asked])
call = called.tool_calls[0]
assert call["name"] == "add"
assert set(call["args"]) == {"a", "b"}
result = ToolMessage(str(add.invoke(call["args"])), tool_call_id=call["id"])
assert isinstance(chat.bind_tools([add]).invoke([asked, called, result]).content, str)

vectors = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False).embed_documents(["cat", "dog"])
assert len(vectors) == 2
assert len(vectors[0]) == len(vectors[1]) > 10

via_responses = ChatOpenAI(model=MODEL, temperature=0, max_completion_tokens=32, use_responses_api=True)
assert via_responses.invoke("Say hello.").text
print("said", repr(answer.content[:40]), "and called", call["args"])
