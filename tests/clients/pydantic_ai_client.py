# /// script
# dependencies = ["pydantic-ai-slim[openai]>=2"]
# ///
"""pydantic-ai: text, typed output through a tool and through json_schema, a tool of one's own, streaming; both APIs."""

import asyncio
import os

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.settings import ModelSettings


class City(BaseModel):
    name: str = Field(max_length=24)
    population: int = Field(ge=0, le=100_000_000)


async def main() -> None:
    settings = ModelSettings(temperature=0, max_tokens=96)
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind(os.environ["CLIENT_MODEL"])
        for output in (ToolOutput(City), NativeOutput(City)):
            agent = Agent(model, output_type=output, model_settings=settings, system_prompt="Be exact.", retries=2)
            found = await agent.run("Tell me about Paris.")
            assert isinstance(found.output, City)
        async with Agent(model, model_settings=settings).run_stream("Say hello.") as streamed:
            text = "".join([piece async for piece in streamed.stream_text(delta=True)])
        assert text
        usage = found.usage() if callable(found.usage) else found.usage
        assert usage.input_tokens > 0
        print(kind.__name__, found.output)


asyncio.run(main())
