"""Reinforcement fine-tuning with a grader in Python: odd or even, said in one word.

Written for OpenAI's API and run as it is against any server that OPENAI_BASE_URL names. The grader is tried on two
answers before anything is trained on it.
"""

import io
import json
import time

from openai import OpenAI

client = OpenAI()
GRADER = {
    "type": "python",
    "name": "odd or even",
    "source": """
def grade(sample, item):
    words = sample["output_text"].lower().strip().strip(".!").split()
    if not words:
        return 0.0
    short = 1.0 / len(words)
    right = 1.0 if words[-1] == item["answer"] else 0.0
    return 0.5 * short + 0.5 * right
""",
}


def upload(name: str, numbers: range) -> str:
    rows = []
    for number in numbers:
        question = f"Is {number} odd or even? Answer with one word."
        answer = "odd" if number % 2 else "even"
        rows.append(json.dumps({"messages": [{"role": "user", "content": question}], "answer": answer}))
    return client.files.create(file=(name, io.BytesIO("\n".join(rows).encode())), purpose="fine-tune").id


for said in ("odd", "I think that 3 is an even number."):
    item = {"answer": "odd"}
    tried = client.fine_tuning.alpha.graders.run(grader=GRADER, model_sample=said, item=item)
    print(f"the grader gives {said!r} {tried.reward:.2f}")

job = client.fine_tuning.jobs.create(
    model="o4-mini-2025-04-16",
    training_file=upload("train.jsonl", range(2, 34)),
    validation_file=upload("valid.jsonl", range(40, 48)),
    suffix="parity",
    seed=7,
    method={
        "type": "reinforcement",
        "reinforcement": {
            "grader": GRADER,
            "hyperparameters": {"n_epochs": 3, "batch_size": 8, "eval_interval": 4, "eval_samples": 4},
        },
    },
)
print("created", job.id)
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(2)
    job = client.fine_tuning.jobs.retrieve(job.id)
if job.status != "succeeded":
    raise SystemExit(f"{job.status}: {job.error}")

steps = [
    event.data
    for event in reversed(list(client.fine_tuning.jobs.list_events(job.id)))
    if event.type == "metrics" and event.data
]
for name in ("train_reward_mean", "valid_reward_mean"):
    values = [step[name] for step in steps if step.get(name) is not None]
    print(f"{name} {values[0]:.2f} → {values[-1]:.2f} over {len(values)} values")

question = [{"role": "user", "content": "Is 51 odd or even? Answer with one word."}]
for model in ("o4-mini-2025-04-16", job.fine_tuned_model):
    answer = client.chat.completions.create(model=model, messages=question, max_completion_tokens=24)
    print(f"{model}: {answer.choices[0].message.content!r}")
