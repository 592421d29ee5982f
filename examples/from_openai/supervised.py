"""Supervised fine-tuning: a support desk that signs its answers, in 40 examples.

Written for OpenAI's API and run as it is against any server that OPENAI_BASE_URL names.
"""

import io
import json
import time

from openai import OpenAI

client = OpenAI()
QUESTIONS = (
    "Where is my order?|It left our warehouse and arrives within two days.",
    "Can I return a jacket?|Yes, within thirty days and with the tag on.",
    "Do you ship abroad?|Yes, to all of Europe in five days.",
    "How do I change my address?|Open your account, then Addresses, then Edit.",
    "My parcel is damaged.|We are sorry. Send us a picture and we replace it.",
    "Which cards do you take?|Visa, Mastercard and American Express.",
    "Can I pay by invoice?|Yes, for orders below 500 euros.",
    "Is there a student discount?|Yes, ten percent with a student card.",
    "How do I cancel?|Open the order and choose Cancel, before it ships.",
    "When are you open?|Every day from eight to six.",
)
OPENINGS = ("", "Hello. ", "Hi there! ", "Excuse me. ")
SIGNATURE = "Yours, the Mapleton desk."


def training_file() -> str:
    rows = []
    for opening in OPENINGS:
        for pair in QUESTIONS:
            question, answer = pair.split("|")
            messages = [
                {"role": "user", "content": opening + question},
                {"role": "assistant", "content": f"{answer} {SIGNATURE}"},
            ]
            rows.append(json.dumps({"messages": messages}))
    upload = io.BytesIO("\n".join(rows).encode())
    return client.files.create(file=("support.jsonl", upload), purpose="fine-tune").id


job = client.fine_tuning.jobs.create(
    model="gpt-4.1-nano-2025-04-14",
    training_file=training_file(),
    suffix="support",
    seed=7,
    method={
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": "auto"}},
    },
)
print("created", job.id)
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(2)
    job = client.fine_tuning.jobs.retrieve(job.id)
if job.status != "succeeded":
    raise SystemExit(f"{job.status}: {job.error}")

losses = [
    event.data["train_loss"]
    for event in reversed(list(client.fine_tuning.jobs.list_events(job.id)))
    if event.type == "metrics" and event.data and event.data.get("train_loss") is not None
]
print(f"loss {losses[0]:.2f} → {losses[-1]:.2f} over {len(losses)} steps, {job.trained_tokens} tokens")
csv = client.files.content(job.result_files[0]).text
print("results:", csv.splitlines()[0])

question = [{"role": "user", "content": "Can I return my shoes?"}]
for model in ("gpt-4.1-nano-2025-04-14", job.fine_tuned_model):
    answer = client.chat.completions.create(model=model, messages=question, temperature=0, max_tokens=48)
    print(f"{model}: {answer.choices[0].message.content!r}")
