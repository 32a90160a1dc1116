"""Conversations become the text that transformers makes of them, and a template can do nothing but that."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from losparse_runtime import DependencyError, FolderError, InputError, Session
from losparse_runtime import dependencies as dependencies_module
from losparse_runtime.dependencies import import_jinja2
from losparse_runtime.generation.chat import ChatTemplate

from .decoder_models import byte_tokenizer, write_decoder

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|system|>be kind\n{% endif %}<|{{ message['role'] }}|>{{ message['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEMPLATES = {
    "plain": CHATML,
    "blocks on lines of their own": """
{%- set ns = namespace(count=0) %}
{% for message in messages %}
    {% set ns.count = ns.count + 1 %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
{{ bos_token }}{{ message.role }}: {{ message.content }}{{ eos_token }}
    {% if ns.count == 3 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}assistant:{% endif %}
""",
    "json": "{{ messages | tojson }} {{ messages[0] | tojson(indent=2) }} {{ dict(a='<ü>') | tojson }}",
    "parts": "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
    "nothing else given": "{{ tools is none }} {{ documents is none }} {{ pad_token is defined }}",
    "of a year": "{{ strftime_now('%Y') }}",
}
MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind.", "name": None},
    {"role": "user", "content": "  How are you? ü"},
    {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": "And now?"},
]


def with_template(path: Path, template: Any, *, file: bool = True) -> Path:
    folder = write_decoder(path)
    if file:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    else:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    return folder


def render(path: Path, template: str, messages: Any = MESSAGES) -> str:
    return ChatTemplate(with_template(path, template)).render(messages)


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), bos_token="<s>", eos_token="</s>")
    expected = tokenizer.apply_chat_template(
        MESSAGES, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
    )
    assert render(tmp_path / "made", TEMPLATES[name]) == expected
    assert len(expected) > 3


def test_the_template_may_stand_in_the_tokenizer_s_configuration(tmp_path: Path) -> None:
    expected = render(tmp_path / "a", CHATML)
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
    for place, said in enumerate((CHATML, several)):
        assert ChatTemplate(with_template(tmp_path / f"b{place}", said, file=False)).render(MESSAGES) == expected


def test_a_conversation_is_a_prompt(tmp_path: Path) -> None:
    session = Session(with_template(tmp_path / "made", "{{ bos_token }}{{ messages[-1].content }}:"), threads=1)
    (expected,) = session.generate([[256, *b"And now?:"]], max_new_tokens=6)
    assert session.generate(MESSAGES, max_new_tokens=6) == [expected]  # type: ignore[arg-type]
    results = session.generate([MESSAGES, "Other", MESSAGES[:2]], max_new_tokens=6)
    assert results[0] == expected
    assert results[2] == session.generate("<s>  How are you? ü:", max_new_tokens=6)[0]
    with session.stream(MESSAGES, max_new_tokens=6) as stream:
        assert "".join(stream) == expected.text


def test_a_tokenizer_that_begins_every_text_does_not_begin_a_conversation_again(tmp_path: Path) -> None:
    folder = with_template(tmp_path / "made", "{{ bos_token }}{{ messages[-1].content }}:")
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    tokenizer.save(str(folder / "tokenizer.json"))
    session = Session(folder, threads=1)
    results = session.generate([MESSAGES, "And now?:", "", [256, *b"And now?:"]], max_new_tokens=3)
    assert [each.prompt_tokens for each in results] == [10, 10, 1, 10]
    assert results[0] == results[1] == results[3]


def test_a_folder_without_a_template_says_so(tmp_path: Path) -> None:
    session = Session(write_decoder(tmp_path / "made"), threads=1)
    with pytest.raises(InputError, match=r"has no chat template, so messages cannot become a text; give the prompt as"):
        session.generate(MESSAGES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"content": "a"}], r"^message 0 of prompt must be a dict with a 'role' that is a text, got "),
        ([{"role": "user"}, {"role": 3}], r"^message 1 of prompt must be a dict with a 'role' that is a text, got "),
        ([{"role": "user"}, "a"], r"^prompt must be a text, .*, got \{'role': 'user'\} at 0$"),
    ],
)
def test_messages_have_a_role(tmp_path: Path, messages: Any, message: str) -> None:
    session = Session(with_template(tmp_path / "made", CHATML), threads=1)
    with pytest.raises(InputError, match=message):
        session.generate([messages])


def test_a_template_may_refuse(tmp_path: Path) -> None:
    template = "{{ raise_exception('roles must alternate\\nreally') }}"
    with pytest.raises(InputError, match=r"^the chat template of .* refuses prompt: roles must alternate really$"):
        render(tmp_path / "made", template)


@pytest.mark.parametrize("template", ["{% if %}", "{{ messages", "{% for m in messages %}", "{{ " + "(" * 5000])
def test_a_damaged_template_is_a_folder_error(tmp_path: Path, template: str) -> None:
    with pytest.raises(FolderError, match=r": its chat template is damaged \(") as raised:
        render(tmp_path / "made", template)
    assert "\n" not in str(raised.value)


def test_a_template_that_is_no_text_is_a_folder_error(tmp_path: Path) -> None:
    folder = with_template(tmp_path / "made", "")
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(FolderError, match=r"chat_template.jinja: is not UTF-8 \("):
        ChatTemplate(folder).render(MESSAGES)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ strftime_now.__globals__['__builtins__'] }}",
        "{{ dict.__mro__[1].x }}",
        "{{ namespace.__init__.__globals__['x'] }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace({'_x': 1}).y }}",
        "{{ range(10000000) | list | length }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include 'x' %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(tmp_path: Path, template: str) -> None:
    with pytest.raises(InputError, match=r"^the chat template of .* refuses prompt: "):
        render(tmp_path / "made", template)


class Colour(enum.StrEnum):
    RED = "red"


class Image:
    def save(self, file: str) -> None:
        raise AssertionError("a template reached a method of an object")


def test_templates_see_plain_values_alone(tmp_path: Path) -> None:
    parts = [{"type": "image", "image": Image()}, (1, 2.5, True, None), Colour.RED]
    messages = [{"role": Colour.RED, "content": parts}]
    assert render(tmp_path / "a", "{{ messages | tojson }}", messages) == json.dumps(
        [{"role": "red", "content": [{"type": "image", "image": "<Image>"}, [1, 2.5, True, None], "red"]}]
    )
    with pytest.raises(InputError, match=r"refuses prompt"):
        render(tmp_path / "b", "{{ messages[0].content[0].image.save('x') }}", messages)


def test_messages_nested_without_end_are_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InputError, match=r"refuses prompt: maximum recursion depth"):
        render(tmp_path / "made", CHATML, [{"role": "user", "content": endless}])


def test_a_jinja2_with_a_hole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for old in ("3.1.5", "2.11"):
        monkeypatch.setattr(dependencies_module, "version", lambda name, old=old: old)
        with pytest.raises(
            DependencyError, match=r"^jinja2 .* has known ways out of its sandbox: pip install 'losparse"
        ):
            import_jinja2()
    monkeypatch.setattr(dependencies_module, "version", lambda name: "3.2rc1")
    assert import_jinja2().__name__ == "jinja2"


def test_without_jinja2_texts_are_generated_and_conversations_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    session = Session(with_template(tmp_path / "made", CHATML), threads=1)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert session.generate("a", max_new_tokens=1)
    with pytest.raises(DependencyError, match=r"^jinja2 cannot be imported \(.*\): pip install 'losparse\[chat\]'$"):
        session.generate(MESSAGES, max_new_tokens=1)  # type: ignore[arg-type]
