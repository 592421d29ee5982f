"""Direct preference optimization: short answers over long-winded ones, in 40 pairs.

Written for OpenAI's API and run as it is against any server that OPENAI_BASE_URL names.
"""

import io
import json
import time

from openai import OpenAI

client = OpenAI()
FACTS = (
    "What is the capital of Italy?|Rome.",
    "How many legs has a spider?|Eight.",
    "What do bees make?|Honey.",
    "Which planet is red?|Mars.",
    "What is the opposite of hot?|Cold.",
    "Who wrote Hamlet?|Shakespeare.",
    "What is frozen water?|Ice.",
    "Which animal barks?|A dog.",
    "How many days has a week?|Seven.",
    "What colour is grass?|Green.",
)
WINDY = (
    "That is a wonderful question, and I am very happy that you asked it. Let me think about it step by step. {}",
    "As an assistant I would like to begin with some background, since context matters a great deal. {}",
    "Certainly! There are many ways to look at this, and people have long discussed it. In short: {}",
    "Thank you so much for reaching out. I hope that you are having a great day. The answer is: {}",
)


def training_file() -> str:
    rows = []
    for windy in WINDY:
        for pair in FACTS:
            question, answer = pair.split("|")
            row = {
                "input": {"messages": [{"role": "user", "content": question}]},
                "preferred_output": [{"role": "assistant", "content": answer}],
                "non_preferred_output": [{"role": "assistant", "content": windy.format(answer)}],
            }
            rows.append(json.dumps(row))
    upload = io.BytesIO("\n".join(rows).encode())
    return client.files.create(file=("preferences.jsonl", upload), purpose="fine-tune").id


job = client.fine_tuning.jobs.create(
    model="gpt-4.1-nano-2025-04-14",
    training_file=training_file(),
    suffix="brief",
    seed=7,
    method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "batch_size": 4, "beta": 0.1}}},
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
    if event.type == "metrics" and event.data and event.data.get("reward_accuracy") is not None
]
first, last = steps[: len(steps) // 4 + 1], steps[-(len(steps) // 4 + 1) :]
for name in ("train_loss", "reward_accuracy"):
    begin, end = (sum(step[name] for step in part) / len(part) for part in (first, last))
    print(f"{name} {begin:.2f} → {end:.2f} over {len(steps)} steps")

question = [{"role": "user", "content": "What is the capital of Spain?"}]
for model in ("gpt-4.1-nano-2025-04-14", job.fine_tuned_model):
    answer = client.chat.completions.create(model=model, messages=question, temperature=0, max_tokens=48)
    print(f"{model}: {answer.choices[0].message.content!r}")
