"""Tools in a conversation: how a model is told of them, and how calls and results are written, where its own chat
template does not say.

The form is the one of Hermes and Qwen (`dialects.HERMES`). Most open models were trained on it, and its tags are plain
text, so any model can be asked for it. Knows messages; no tokens and no HTTP. Reading calls back is `said.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from tutee.conversation import Function, Message
from tutee.model.dialects import CALL, END_CALL, HERMES

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


def in_turns(messages: Sequence[Message], functions: Sequence[Function]) -> list[Message]:
    """The conversation without any tool that a template would have to know: functions described in the first system
    message, calls in the assistant's text, results as what the user says next (several in one turn)."""
    turns: list[Message] = []
    for i, message in enumerate(messages):
        if message.tool_calls:
            texts = filter(None, (message.content, HERMES.write(message.tool_calls)))
            turns.append(replace(message, content="\n".join(texts), tool_calls=()))
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


def one_call_a_turn(messages: Sequence[Message]) -> list[Message]:
    """The conversation for a template that takes one call an answer: calls made together one after the other, each with
    its result. Calls whose results are not all there stay together."""
    turns: list[Message] = []
    results: list[Message] = []
    """Taken, and not passed over again."""
    for i, message in enumerate(messages):
        if any(message is result for result in results):
            continue
        calls = {call.id: call for call in message.tool_calls}
        following = list(takewhile(lambda m: m.role == "tool", messages[i + 1 :]))
        if len(calls) < 2 or {result.tool_call_id for result in following} != set(calls):
            turns.append(message)
            continue
        results += following
        content = message.content
        for id, call in calls.items():
            turns.append(replace(message, content=content, tool_calls=(call,)))
            turns += [result for result in following if result.tool_call_id == id]
            content = ""
    return turns
