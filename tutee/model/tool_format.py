"""Tools in a conversation: how a model is told of them, and how calls and results are written, where its own chat
template does not say.

The form is the one of Hermes and Qwen: `<tool_call>` around a JSON object with `name` and `arguments`. Most open models
were trained on it, and its tags are plain text, so any model can be asked for it. Knows messages; no tokens and no
HTTP. Reading calls back is `said.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from tutee.conversation import Function, Message, ToolCall

CALL, END_CALL = "<tool_call>", "</tool_call>"
RESULT, END_RESULT = "<tool_response>", "</tool_response>"


def describe(functions: Sequence[Function]) -> str:
    """What a system message says of the functions."""
    lines = "\n".join(json.dumps(function.to_dict(), ensure_ascii=False) for function in functions)
    return (
        "# Tools\n\nYou can call functions to help with the user's request. These are their signatures, one a line:\n"
        f"<tools>\n{lines}\n</tools>\n\n"
        "To call one, answer with its name and arguments as a JSON object between tags:\n"
        f'{CALL}\n{{"name": "the function\'s name", "arguments": {{"an argument": "its value"}}}}\n{END_CALL}'
    )


def write_call(call: ToolCall) -> str:
    """A call as the assistant writes it."""
    return f'{CALL}\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}\n{END_CALL}'


def in_turns(messages: Sequence[Message], functions: Sequence[Function]) -> list[Message]:
    """The conversation without any tool that a template would have to know: functions described in the first system
    message, calls in the assistant's text, results as what the user says next (several in one turn)."""
    turns: list[Message] = []
    for i, message in enumerate(messages):
        if message.tool_calls:
            texts = [message.content, *map(write_call, message.tool_calls)]
            turns.append(replace(message, content="\n".join(filter(None, texts)), tool_calls=()))
        elif message.role == "tool":
            result = f"{RESULT}\n{message.content}\n{END_RESULT}"
            if i and messages[i - 1].role == "tool":
                turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n{result}")
            else:
                turns.append(Message("user", result))
        else:
            turns.append(message)
    if not functions:
        return turns
    told = describe(functions)
    if turns and turns[0].role in ("system", "developer"):
        return [replace(turns[0], content=f"{turns[0].content}\n\n{told}"), *turns[1:]]
    return [Message("system", told), *turns]
