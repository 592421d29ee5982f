"""`make clients`: strangers' clients, unmodified, against a server of ours: client → passed or failed.

Each `*_client.py` is a script of its own with its packages in its head; uv gives each the environment that it names, so
nothing of theirs comes near ours. A script is told the server by OPENAI_BASE_URL, the model by CLIENT_MODEL and the
tokenizer's folder by CLIENT_TOKENIZER, and passes when it ends with status 0. Names on the command line choose clients.
The server computes in float32: an evaluation harness then has to find exactly what the model says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conformance.conftest import ServerProcess
from tutee.model.library import DEFAULT_MODEL, pull
from tutee.settings import Settings

HERE = Path(__file__).parent
UV = Path(os.environ.get("UV", HERE.parent.parent / ".venv-clients" / "bin" / "uv"))
CLIENT_SECONDS = 1200


def reference_accuracy(model: Path) -> float:
    """Share of the multiple-choice task that transformers gets right with this model: the likeliest continuation."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows = [json.loads(line) for line in (HERE / "lm_eval_task" / "capitals.jsonl").read_text().splitlines()]
    right = 0
    for row in rows:
        context = f"The capital of {row['country']} is"
        start = len(tokenizer(context).input_ids)
        scores = []
        for choice in row["choices"]:
            ids = torch.tensor([tokenizer(f"{context} {choice}").input_ids])
            with torch.no_grad():
                logprobs = network(ids).logits[0, :-1].log_softmax(-1)
            scores.append(logprobs.gather(1, ids[0, 1:, None])[start - 1 :].sum().item())
        right += scores.index(max(scores)) == row["answer"]
    return right / len(rows)


def run(script: Path, environment: dict[str, str]) -> tuple[bool, float, str]:
    """(passed, seconds, what it said last or why it failed)."""
    started = time.monotonic()
    command = [str(UV), "run", "--no-project", "--quiet", "--script", str(script)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=CLIENT_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return False, time.monotonic() - started, f"not done in {CLIENT_SECONDS} s"
    said = done.stdout if done.returncode == 0 else done.stderr
    last = "\n".join(said.strip().splitlines()[-1 if done.returncode == 0 else -12 :])
    return done.returncode == 0, time.monotonic() - started, last


def main(names: list[str]) -> int:
    scripts = {path.stem.removesuffix("_client"): path for path in sorted(HERE.glob("*_client.py"))}
    if unknown := set(names) - set(scripts):
        raise SystemExit(f"no such client: {', '.join(sorted(unknown))}; there are {', '.join(scripts)}")
    model = pull(DEFAULT_MODEL, Path(os.environ.get("MODELS_FOR_TESTS", Settings().home.expanduser() / "models")))
    table = Table("client", "", "seconds", "said", title="Strangers' clients")
    failed = 0
    with tempfile.TemporaryDirectory() as home:
        server = ServerProcess(Path(home), model, {"dtype": "float32", "max_batch": 16}).start()
        try:
            inherited = {name: value for name, value in os.environ.items() if not name.startswith("TUTEE_")}
            environment = inherited | {
                "OPENAI_BASE_URL": server.base_url,
                "OPENAI_API_KEY": "any",
                "CLIENT_MODEL": model.name,
                "CLIENT_TOKENIZER": str(model),
            }
            for name in names or scripts:
                if name == "lm_eval":
                    environment["CLIENT_REFERENCE"] = json.dumps(reference_accuracy(model))
                passed, seconds, said = run(scripts[name], environment)
                failed += not passed
                table.add_row(name, "[green]passed[/]" if passed else "[red]failed[/]", f"{seconds:.0f}", said)
                print(f"{name}: {'passed' if passed else 'failed'} in {seconds:.0f} s", flush=True)
                if not passed:
                    print(said, flush=True)
        finally:
            server.stop()
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
