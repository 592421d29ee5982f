# /// script
# dependencies = ["guidellm>=0.8"]
# ///
"""guidellm: a short benchmark of chat and of text completions; every request must succeed with the length asked for."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL, BASE = os.environ["CLIENT_MODEL"], os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
tokenizer = os.environ["CLIENT_TOKENIZER"]
for path in ("/v1/chat/completions", "/v1/completions"):
    report = Path(tempfile.mkdtemp()) / "report.json"
    backend = {"kind": "openai_http", "target": BASE, "model": MODEL, "request_format": path}
    data = {"kind": "synthetic_text", "prompt_tokens": 32, "output_tokens": 12}
    command = [Path(sys.executable).parent / "guidellm", "run", "--disable-console"]
    for name, value in {
        "backend": backend,
        "profile": {"kind": "concurrent", "streams": [2]},
        "constraint": {"kind": "max_requests", "count": 6},
        "tokenizer": {"kind": "huggingface_auto", "model": tokenizer},
        "data": data,
        "output": {"kind": "json", "path": str(report)},
    }.items():
        command += [f"--{name}", json.dumps(value)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert not requests["errored"], requests["errored"][:1]
    assert len(requests["successful"]) >= 6
    assert {request["output_tokens"] for request in requests["successful"]} == {12}
    print(path, len(requests["successful"]), "requests")
