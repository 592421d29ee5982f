# /// script
# dependencies = ["llm>=0.27"]
# ///
"""The `llm` command with us as an extra OpenAI model: a prompt, a conversation that goes on, a schema, embeddings."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL, BASE = os.environ["CLIENT_MODEL"], os.environ["OPENAI_BASE_URL"]
home = Path(tempfile.mkdtemp())
model = {"model_id": "here", "model_name": MODEL, "api_base": BASE, "can_stream": True, "supports_schema": True}
(home / "extra-openai-models.yaml").write_text(json.dumps([model | {"supports_tools": True}]))


def llm(*words: str) -> str:
    command = [sys.executable, "-m", "llm", *words]
    environment = os.environ | {"LLM_USER_PATH": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


short = ("-o", "max_tokens", "24", "-o", "temperature", "0")
schema = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 30}},
    "required": ["age"],
    "additionalProperties": False,
}
streamed = llm("-m", "here", "Say hello.", *short)
assert streamed == llm("-m", "here", "Say hello.", "--no-stream", *short)
assert llm("-c", "And again.", *short).strip()
dog = json.loads(llm("-m", "here", "--schema", json.dumps(schema), "A dog", *short))
assert isinstance(dog["age"], int)
print("said", repr(streamed[:40]), "and", dog)
