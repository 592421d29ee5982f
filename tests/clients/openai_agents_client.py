# /// script
# dependencies = ["openai-agents>=0.20"]
# ///
"""openai-agents over both APIs: a run with a tool call, then the answer; and a streamed run."""

import asyncio
import os

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)
CALLS = []


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    CALLS.append(city)
    return f"It is sunny in {city}."


async def main() -> None:
    client, model = AsyncOpenAI(), os.environ["CLIENT_MODEL"]
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        CALLS.clear()
        settings = ModelSettings(tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=400)
        agent = Agent(
            name="helper",
            instructions="Use the tool, then answer.",
            model=kind(model=model, openai_client=client),
            tools=[weather],
            model_settings=settings,
        )
        done = await Runner.run(agent, "What is the weather in Paris?", max_turns=4)
        assert len(CALLS) == 1, CALLS
        assert isinstance(done.final_output, str)

        plain = Agent(name="plain", model=agent.model, model_settings=ModelSettings(temperature=0, max_tokens=400))
        streamed = Runner.run_streamed(plain, "Say hello.")
        kinds = [event.type async for event in streamed.stream_events()]
        assert "raw_response_event" in kinds
        assert streamed.final_output
        print(kind.__name__, "called", CALLS, "and said", repr(done.final_output[:40]))


asyncio.run(main())
