# /// script
# dependencies = ["inspect-ai>=0.3.200", "openai>=3"]
# ///
"""inspect-ai: a task with a scorer, several epochs, num_choices and log-probs, and a tool loop."""

import os
import tempfile

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool

os.environ["INSPECT_DISPLAY"] = "none"


@tool
def add():
    async def execute(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: the first
            b: the second
        """
        return a + b

    return execute


model = get_model(f"openai/{os.environ['CLIENT_MODEL']}", responses_api=False)
samples = [Sample("The capital of France is", target="Paris"), Sample("Say hello.", target="o")]
config = GenerateConfig(max_tokens=24, temperature=0, logprobs=True, top_logprobs=2, num_choices=2)
plain = Task(dataset=samples, solver=[generate()], scorer=includes(), config=config, epochs=2)
tools = Task(dataset=samples[:1], solver=[use_tools(add()), generate(tool_calls="single")], scorer=includes())
for task in (plain, tools):
    (log,) = eval(task, model=model, log_dir=tempfile.mkdtemp(), max_tokens=24, log_level="warning")
    assert log.status == "success", log.error
    assert log.stats.model_usage
print({name: metric.value for name, metric in log.results.scores[0].metrics.items()})
