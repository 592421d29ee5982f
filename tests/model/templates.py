"""Chat templates in the manner of the families that we run, written for these tests."""

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|head|>' + message['role'] + '<|/head|>\n\n' + message['content'] | trim + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\n\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
ONE_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('system must come first') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (  # an empty thought is written before the last answer only
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GENERATION = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (  # only the newest two turns
    "{% for m in messages[-2:] %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>", "<s>", "</s>")
HOSTILE = {
    "throws": "{{ 1 / 0 }}",
    "undefined attribute": "{{ nothing.of.the.sort }}",
    "long loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loop over a string": "{% set s = 'x' * 100000 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
    "huge range": "{{ range(10 ** 9) | list | length }}",
    "huge text by *": "{{ 'x' * 10 ** 9 }}",
    "huge power": "{{ 9 ** 9 ** 9 }}",
    "doubling with ~": "{% set n = namespace(s='xx') %}{% for i in range(64) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling with +": "{% set n = namespace(s='xx') %}{% for i in range(64) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "much output": "{% for i in range(90000) %}{{ 'x' * 9000 }}{% endfor %}",
    "padding": "{{ 'x'.ljust(10 ** 9) }}",
    "formatting": "{{ '%1000000000d' % 1 }}",
    "format method": "{{ '{:1000000000}'.format(1) }}",
    "replacing": "{% set s = 'x' * 100000 %}{{ s | replace('x', s) }}",
    "replace method": "{% set s = 'x' * 100000 %}{{ s.replace('x', s) }}",
    "joining": "{% set s = 'x' * 100000 %}{{ s.join(s) }}",
    "join filter": "{% set s = 'x' * 100000 %}{{ s | list | join(s) }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "wide recursion": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "summing again and again": "{% set l = range(99999) | list %}{% for i in range(99999) %}{{ l | sum }}{% endfor %}",
    "adding up lists": "{{ ([[1] * 100000] * 1000) | sum(start=[]) | length }}",
    "filler text": "{{ lipsum(n=10 ** 9) }}",
    "large numbers": "{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "many digits": "{{ 1.5 | round(10 ** 9, 'ceil') }}",
    "many slices": "{{ [1] | slice(10 ** 9) | list | length }}",
    "much filling": "{{ [1] | batch(10 ** 9, 'x') | list | length }}",
    "comparing": "{% set s = 'x' * 8000000 %}{% for i in range(99999) %}{{ 'y' in s }}{% endfor %}",
    "cutting": "{% set n = namespace(s='x' * 8000000) %}{% for i in range(99999) %}{% set n.s = n.s[1:] %}{% endfor %}",
    "reaching into Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "changing its arguments": "{{ messages.append(1) }}",
    "including a file": "{% include '/etc/passwd' %}",
}
