"""Chat templates that write calls of tools as the families that we run do; short, written for these tests."""

from __future__ import annotations

_TURN = "<|start|>{{ m.role }}\n{{ m.content }}<|end|>"
_HEAD = "{% if tools %}<|start|>system\n{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}"
_FOOT = "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
_NINE = (
    "{% if c.id | length != 9 %}{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}"
    "{% endif %}"
)

QWEN = (
    _HEAD + "{% if m.tool_calls %}<|start|>assistant\n{{ m.content }}{% for c in m.tool_calls %}"
    "{% if m.content or not loop.first %}{{ '\n' }}{% endif %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|end|>{% else %}" + _TURN + "{% endif %}" + _FOOT
)
LLAMA = (
    _HEAD + "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% set c = m.tool_calls[0].function %}<|start|>assistant\n"
    """{{ '{"name": "' + c.name + '", ' }}{{ '"parameters": ' }}{{ c.arguments | tojson }}{{ '}' }}<|end|>"""
    "{% elif m.role == 'tool' %}<|start|>ipython\n{{ m.content }}<|end|>{% else %}" + _TURN + "{% endif %}" + _FOOT
)
MISTRAL_LIST = (
    _HEAD + "{% if m.tool_calls %}<|start|>assistant\n[TOOL_CALLS] [{% for c in m.tool_calls %}" + _NINE + ""
    """{{ (c.function | tojson)[:-1] }}{{ ', "id": "' + c.id + '"}' }}{% if not loop.last %}, {% endif %}{% endfor %}"""
    "]<|end|>{% elif m.role == 'tool' %}"
    '[TOOL_RESULTS] {"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% else %}" + _TURN + "{% endif %}" + _FOOT
)
MISTRAL_NAMED = (
    _HEAD + "{% if m.tool_calls %}<|start|>assistant\n{{ m.content }}{% for c in m.tool_calls %}"
    "{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' }}{{ c.function.arguments | tojson }}"
    "{% endfor %}<|end|>{% else %}" + _TURN + "{% endif %}" + _FOOT
)
MISTRAL_ID = (
    _HEAD + "{% if m.tool_calls %}<|start|>assistant\n{{ m.content }}{% for c in m.tool_calls %}" + _NINE + ""
    "{{ '[TOOL_CALLS]' + c.function.name + '[CALL_ID]' + c.id + '[ARGS]' }}{{ c.function.arguments | tojson }}"
    "{% endfor %}<|end|>{% else %}" + _TURN + "{% endif %}" + _FOOT
)

TEMPLATES = {
    "hermes": QWEN,
    "llama": LLAMA,
    "mistral-list": MISTRAL_LIST,
    "mistral-named": MISTRAL_NAMED,
    "mistral-id": MISTRAL_ID,
}
"""By the dialect that they write."""
MARKS = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "<|python_tag|>")
"""Special tokens of the families' tokenizers that the templates above write."""
