# /// script
# dependencies = ["litellm>=1.80", "mcp"]
# ///
"""LiteLLM as a proxy would use us: openai/ and hosted_vllm/ routes, streamed with usage, tools, embeddings."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no price list from the network

import litellm

litellm.telemetry = False
MODEL, BASE = os.environ["CLIENT_MODEL"], os.environ["OPENAI_BASE_URL"]
TALK = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {name: {"type": "integer", "minimum": 0, "maximum": 9} for name in "ab"},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
for route in ("openai", "hosted_vllm"):
    asked = {"model": f"{route}/{MODEL}", "api_base": BASE, "messages": TALK, "max_tokens": 24, "temperature": 0}
    whole = litellm.completion(**asked)
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert any(getattr(chunk, "usage", None) for chunk in chunks)
    called = litellm.completion(**asked | {"max_tokens": 96}, tools=[TOOL], tool_choice="required").choices[0]
    assert called.finish_reason == "tool_calls"
    assert called.message.tool_calls[0].function.name == "add"
    vectors = litellm.embedding(model=f"{route}/{MODEL}", api_base=BASE, input=["cat", "dog"])
    assert len(vectors.data) == 2
    print(route, repr(text[:40]), called.message.tool_calls[0].function.arguments)
