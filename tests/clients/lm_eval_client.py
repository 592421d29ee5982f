# /// script
# dependencies = ["lm-eval[api]>=0.4.9", "transformers>=5", "datasets"]
# ///
"""lm-evaluation-harness: log-likelihoods through local-completions, generation through local-chat-completions.

The score of the multiple-choice task must be within half a point of CLIENT_REFERENCE, which the runner computed with
transformers in a process of its own.
"""

import json
import os
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

FOLDER = Path(__file__).parent / "lm_eval_task"
BASE, MODEL, TOKENIZER = os.environ["OPENAI_BASE_URL"], os.environ["CLIENT_MODEL"], os.environ["CLIENT_TOKENIZER"]
os.chdir(tempfile.mkdtemp())
os.symlink(FOLDER / "capitals.jsonl", "capitals.jsonl")
manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
arguments = {"model": MODEL, "num_concurrent": 4, "max_retries": 2, "tokenizer": TOKENIZER}
choices = lm_eval.simple_evaluate(
    "local-completions",
    model_args=arguments | {"base_url": f"{BASE}/completions", "tokenizer_backend": "huggingface", "batch_size": 4},
    tasks=["capitals_choice"],
    task_manager=manager,
    log_samples=False,
)
accuracy = choices["results"]["capitals_choice"]["acc,none"]
reference = json.loads(os.environ["CLIENT_REFERENCE"])
print("acc", accuracy, "in process", reference)
assert abs(accuracy - reference) <= 0.005
written = lm_eval.simple_evaluate(
    "local-chat-completions",
    model_args=arguments | {"base_url": f"{BASE}/chat/completions"},
    tasks=["capitals_say"],
    task_manager=manager,
    apply_chat_template=True,
    limit=20,
    log_samples=False,
)
print("said", written["results"]["capitals_say"])
assert written["results"]["capitals_say"]["named,none"] > 0.2
