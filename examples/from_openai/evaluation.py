"""An eval: ten questions, two criteria, one run; what passed, and which answer failed.

Written for OpenAI's API and run as it is against any server that OPENAI_BASE_URL names.
"""

import time

from openai import OpenAI

client = OpenAI()
ITEMS = [
    {"question": f"What is the capital of {country}?", "answer": capital}
    for country, capital in {
        "France": "Paris",
        "Italy": "Rome",
        "Japan": "Tokyo",
        "Germany": "Berlin",
        "Russia": "Moscow",
        "Egypt": "Cairo",
        "Greece": "Athens",
        "Poland": "Warsaw",
        "Cuba": "Havana",
        "Peru": "Lima",
    }.items()
]
found = client.evals.create(
    name="Capitals",
    data_source_config={
        "type": "custom",
        "item_schema": {
            "type": "object",
            "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
            "required": ["question", "answer"],
        },
        "include_sample_schema": True,
    },
    testing_criteria=[
        {
            "type": "string_check",
            "name": "names the capital",
            "input": "{{ sample.output_text }}",
            "reference": "{{ item.answer }}",
            "operation": "ilike",
        },
        {
            "type": "text_similarity",
            "name": "and says little else",
            "input": "{{ sample.output_text }}",
            "reference": "{{ item.answer }}",
            "evaluation_metric": "fuzzy_match",
            "pass_threshold": 0.4,
        },
    ],
)
print("eval", found.id)
run = client.evals.runs.create(
    found.id,
    name="first",
    data_source={
        "type": "completions",
        "model": "gpt-4.1-mini",
        "source": {"type": "file_content", "content": [{"item": item} for item in ITEMS]},
        "input_messages": {
            "type": "template",
            "template": [{"role": "user", "content": "{{ item.question }}"}],
        },
        "sampling_params": {"temperature": 0, "max_completion_tokens": 24, "seed": 7},
    },
)
while run.status not in ("completed", "failed", "canceled"):
    time.sleep(1)
    run = client.evals.runs.retrieve(run.id, eval_id=found.id)
if run.status != "completed":
    raise SystemExit(f"{run.status}: {run.error}")

counts = run.result_counts
print(f"{counts.passed} of {counts.total} passed, {counts.failed} failed, {counts.errored} could not be judged")
for criterion in run.per_testing_criteria_results:
    print(f"  {criterion.testing_criteria}: {criterion.passed} passed, {criterion.failed} failed")
for item in client.evals.runs.output_items.list(run.id, eval_id=found.id, status="fail"):
    said = item.sample.output[0].content
    print(f"  failed: {item.datasource_item['question']} → {said!r}")
    break
