# SPDX-License-Identifier: GPL-3.0-or-later
# usage: chat.py OUT.json: what Hugging Face's library makes of small chat templates (written for this project), for tests/test_chat.c.
import json
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

CHATS = [  # conversations: role, text, role, text, ...
    ["user", "Hi  \u00e9 "],
    ["system", " Be brief\n", "user", "Hi"],
    ["user", "A", "assistant", " B <think>x</think> y", "user", "C"],
]

# Whole templates in the manner of published ones: tool branches, namespaces, loops, errors of their own.
WHOLE = [
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
    """{%- if tools %}
    {{- tools | tojson(indent=4) }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content | trim + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(search=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if ns.search and message.role == "user" and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.search = false %}
        {%- set ns.last = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') if loop.index0 < ns.last else content %}
    {%- endif %}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}{{ call.name | some_filter }}{% endfor %}
    {%- elif not (message.role == 'system' and loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}""".replace(" | some_filter", ""),
    """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {{ raise_exception('there is no system role') }}
{%- endif -%}
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('turns') }}{%- endif -%}
    {{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '
' }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {%- for item in message['content'] -%}{{ item['text'] }}{%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model
'}}{%- endif -%}
""",
    """{%- set users = messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == users[-1]) %}{{- "[TOOLS]" }}{% endif %}
        {{- "[INST] " + (messages[0].content ~ "\\n\\n" if loop.last and messages[0].role == 'system') + message["content"] + "[/INST]" }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}""",
]

SPACE = [
    'a\n  {% if true %}\n  b\n  {% endif %}\nc\n',
    '{{ 1 }}\n{{ 2 }}\n\n',
    '  {%- if true -%}  x  {%- endif -%}  y',
    'x {#- c -#}  y\n  {# d #}\nz',
    '  {%+ if true %}x{% endif +%}\n y',
    '{% if true %}\n\n{% endif %}\n',
    '\t{% set a = 1 %}\n\t{{ a }}{# #}  {% if a %} z{% endif %}',
    '{{ "}}" }}{{ {"a": {"b": 3}}.a.b }}',
    '{{- " a" -}} \n {{ 3 -}}\n x',
    'a\r\nb\r\n{% if true %}\r\nc{% endif %}\r\n',
    'x\n{%- if true %} y {% endif -%}\n\n z',
    '{% for i in range(3) %}  {{ i }}\n  {% endfor %}end',
    'a  {% if true %}\n b{%endif%}  \n  {% if true %}{% endif %}  {% if true %}{% endif %}\n',
]

EXPRESSIONS = [
    '1 if false',
    '1 if false else 2 if false else 3',
    "(x.y if x is defined else 'no')",
    "'a' in 'cat' and not 'b' in 'cat'",
    "'b' not in 'cat'",
    '-3 % 2',
    '-7 // 2',
    '7 // -2',
    '-5 % 3',
    '2 - 3 - 4',
    '1 ~ 2 + 3 ~ 4',
    '1 + 2 ~ 3',
    'none',
    'true',
    '[1,2][-1]',
    "'abc'[1:]",
    "'abc'[::-1]",
    "'abcdef'[4:1:-2]",
    "'abc'[-2:]",
    "'abc'[5:]",
    "'abc'[:-5]",
    '[1,2,3][::-1][0]',
    "'a b  c'.split()|length",
    "'a,b,c'.split(',',1)[1]",
    "'xxaxx'.strip('x')",
    "'é'|length",
    "'A'|lower",
    "'abc'|capitalize",
    "'aBC dE'|capitalize",
    "'aBC'.capitalize()",
    'messages|length',
    "messages[0]['content'] | trim | length",
    'messages[0].nokey',
    'messages[0].nokey is defined',
    'messages[0].nokey.x',
    'messages[9]',
    'messages[9].x',
    'messages[9] is defined',
    '{\'a\':1,\'b\':[1,\'x"é\\n\',none,true]}|tojson',
    "'<&>\\'' | tojson",
    '1 == true',
    "'1' == 1",
    'none == false',
    'none is none',
    '1 < 2 < 3',
    '3 > 2 > 2',
    '1 in [1,2]',
    "'role' in messages[0]",
    "'x' ~ none",
    "'a' 'b'",
    "'a' + 1",
    'messages + [1]|list|length',
    '(messages + [1])|length',
    "'abc'|first",
    '[]|first',
    '[]|last is defined',
    "['a','b']|join(', ')",
    "[1,'b']|join",
    "'aXbX'|replace('X','')",
    "'a'.replace('a','b')",
    "foo|default('d')",
    "''|default('d')",
    "''|default('d',true)",
    "''|default('d',boolean=true)",
    'foo is undefined',
    'foo',
    'foo.bar',
    'not foo',
    "foo or 'z'",
    'foo and 1',
    "'' or 0",
    "'%s' % 'a'",
    '5/2',
    '3*2',
    '2**3',
    '1.5',
    "'a' * 3",
    'messages[0].items()|length',
    "messages[0].get('x','y')",
    "messages[0].get('x')",
    "messages[0]['content'].upper()",
    "'a'.title()",
    'dict(a=1).a',
    'namespace(a=1).a',
    'range(3)|list|length',
    'range(3)',
    'loop',
    'messages is iterable',
    'messages is string',
    'messages[0] is mapping',
    "'a' is sequence",
    '1 is number',
    'true is integer',
    '1 is odd',
    '2 is even',
    'foo is none',
    'strftime_now is defined',
    'raise_exception is defined',
    'foo_bar()',
    "messages|map(attribute='role')|join(',')",
    "messages|selectattr('role','equalto','user')|list|length",
    "messages|rejectattr('role','==','user')|list|length",
    "messages|selectattr('content')|list|length",
    'not 1 == 2',
    'not not 1',
    '- - 3',
    "-'a'",
    '1 and 2',
    '0 or 2',
    '(1,2)',
    "'a' < 'b'",
    "'a' < 1",
    'messages[0] == messages[0]',
    "messages[0].content.strip().split(' ')[0]",
    "'a\\tb\\\\'",
    "'\\u00e9'",
    "'\\x41'",
    '"it\'s"',
    "'a'~'b'|upper",
    "'x' if messages else 'y'",
    'messages[0].content is string and messages[0].content|length > 2',
    '1 is eq 1',
    "'user' is in ['user']",
    '[1,[2]] == [1,[2]]',
    "''.join(['a','b'])",
    'loop is defined',
    "messages[-1]['role'] == 'user' if messages else false",
    "'a' if 'b' in 'abc' else 'c' ~ 'd'",
    '(messages|last).role',
    "messages[0]['content'][0]",
    "'abc'[1]",
    "'abc'[7] is defined",
    'none.x is defined',
    '1.x',
    "5|string ~ 'a'",
    "'5'|int",
    'true|lower',
    'none|trim',
    'not none|trim',
    "'a\nb'|tojson",
    '[]|tojson',
    '{}|tojson',
    '[[]]|tojson',
    "'\x7f'|tojson",
    "'a'|e",
    "'<'|safe",
    'True and False',
    'None is none',
    "'x'.startswith('')",
    "'ab'.endswith(('a','b'))",
    "'abc'.find('b')",
    "'a-b'.partition('-')[0]",
    "' \xa0a\u3000 '|trim",
    "' \xa0a\u3000 '.strip() ~ '|'",
    "'a\u2003b'.split()|length",
    "'a\x85'|trim|length",
    "'\x1ca'|trim|length",
]

STATEMENTS = [
    '{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}',
    '{% for i in [] %}a{% else %}b{% endfor %}',
    '{% for i in [1,2,3,4] if i % 2 == 0 %}{{ loop.index }}{{ i }}{{ loop.last }}{% endfor %}',
    "{% for k, v in {'a':1,'b':2}.items() %}{{k}}{{v}}{% endfor %}",
    "{% for k, v in {'a':1}|items %}{{k}}{{v}}{% endfor %}",
    "{% for k in {'a':1} %}{{k}}{% endfor %}",
    "{% for c in 'abc' %}{{c}}{% endfor %}",
    '{% for i in foo %}x{% else %}y{% endfor %}',
    '{% for i in none %}x{% endfor %}',
    '{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}',
    '{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}z',
    '{% break %}',
    '{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]',
    '{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}{{ ns.a|length }}',
    '{% set d = {} %}{% set d.x = 1 %}',
    '{% set a, b = [1,2] %}{{ a }}',
    '{% if true %}{% set q = 3 %}{% endif %}{{ q }}',
    '{% for i in [1,2] %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.length }}{{ loop.first }}{% endfor %}',
    '{% for i in [1] %}{{ loop.depth }}{% endfor %}',
    "{% for i in [1] %}{{ loop.cycle('a','b') }}{% endfor %}",
    '{% for i in [1,1,2] %}{{ loop.changed(i) }}{% endfor %}',
    '{% raw %}{{ x }}{% endraw %}',
    '{% if 1 %}a',
    '{% endif %}',
    '{{ 1',
    '{% if %}a{% endif %}',
    '{{ }}',
    '{{ 1 2 }}',
    '{% set x = [] %}{% set _ = x.append(1) %}{{ x|length }}',
    '{% for i in [1,2] %}{% for j in [1] %}{{ loop.index }}{{ loop.parent }}{% endfor %}{{ loop.index }}{% endfor %}',
    '{%- with %}a{% endwith %}',
    '{% filter upper %}a{% endfilter %}',
    "{% include 'x' %}",
    '{% do x %}',
    '{% else %}',
    '{% if 0 %}{{ 1|nofilter }}{% endif %}ok',
    '{% if 0 %}{% elif 1 %}b{% else %}c{% endif %}',
    '{% set messages = messages[1:] %}{{ messages|length }}',
    "{{ '{%' }}{{ '{{' }}",
    '{# {{ x }} #}a',
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}{{ messages[0].content }}",
    "{% set x = 'a' if true else 'b' %}{{ x }}",
    "{% set x='a=b' %}{{ x }}",
    '{% set x | upper %}a{% endset %}{{ x }}',
    '{% for i in [1,2,3][1:] %}{{i}}{% endfor %}',
    '{% for i in range(2, 5) %}{{i}}{% endfor %}',
    '{% for i in range(5, 2, -1) %}{{i}}{% endfor %}',
    '{%for m in messages%}{{loop.index0}}{%if not loop.last%},{%endif%}{%endfor%}',
    "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role=='user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.nope }}",
    '{% for message in messages %}{{ message }}{% endfor %}',
    '{% set x = 1 %}{% set y %}{% set x = 2 %}{{ x }}{% endset %}{{ x }}{{ y }}',
    '{% if x = 1 %}{% endif %}',
    "{{ 'a' | trim('a') }}|",
    '{{ messages | tojson }}',
    '{{ messages[0] | tojson }}',
    '{{ [1,2]|tojson(indent=2) }}',
    '{% for a in [[1,2],[3,4]] %}{{ a[0] }}{% endfor %}{% for a,b in [[1,2],[3,4]] %}{{ b }}{% endfor %}',
    '{% for (a,b) in [[1,2]] %}{{ b }}{% endfor %}',
    '{% call f() %}{% endcall %}',
    "{% set loop_messages = messages %}{% for message in loop_messages %}{{ message['content'].strip() }}{% endfor %}",
]


def made(template, chat):
    messages = [{"role": r, "content": t} for r, t in zip(chat[::2], chat[1::2])]
    try:
        return _compile_jinja_template(template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )
    except Exception:
        return None  # the library refuses


cases = [(t, CHATS) for t in WHOLE] + [(t, CHATS[1:2]) for t in SPACE + ["{{ " + e + " }}" for e in EXPRESSIONS] + STATEMENTS]
out = [{"template": t, "chats": c, "want": [made(t, x) for x in c]} for t, c in cases]
with open(sys.argv[1], "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(o) for o in out) + "\n]\n")
