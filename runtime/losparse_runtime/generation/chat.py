"""Conversations as one text: the folder's own template, run in a sandbox as transformers runs it.

A template comes with a model from wherever that comes from, so it is code of a stranger. It runs in jinja2's immutable
sandbox, and sees nothing but texts, numbers, lists and dicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from ..contract.fields import read_json
from ..contract.files import CHAT_FILE, TOKENIZER_CONFIG_FILE
from ..contract.inside import MIB, read_inside
from ..dependencies import import_jinja2
from ..errors import FolderError, InputError, LosparseRuntimeError, one_line

_MOST_BYTES = 1 * MIB
"""Of a template; the longest that models come with have 30 KiB."""
_FIELD, _DEFAULT = "chat_template", "default"
_SPECIAL = "_token"  # ending of the fields of tokenizer_config.json that name special tokens, as in "bos_token"


class ChatTemplate:
    """The template of a folder, read at the first use. Safe to use from several threads.

    Args:
        folder: an exported ONNX folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def render(self, messages: Sequence[Mapping[str, Any]], name: str = "prompt") -> str:
        """Write down a conversation, up to where the model's answer begins.

        Args:
            messages: each with a "role", and what else the template knows, "content" first of all.
            name: what errors call the conversation.

        Returns:
            The text, special tokens of the template included.

        Raises:
            InputError: a message has no role, the template refuses the messages, or the folder has no template.
            FolderError: the template is damaged.
            DependencyError: jinja2 is not installed.
        """
        template = self._template
        try:
            plain = [_message(each, name, place) for place, each in enumerate(messages)]
            text: str = template.render(
                messages=plain, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
            )
        except LosparseRuntimeError:
            raise
        except Exception as error:  # a template may do anything that an expression of Python may
            raise InputError(f"the chat template of {self._folder} refuses {name}: {one_line(error)}") from error
        return text

    @cached_property
    def _settings(self) -> dict[str, Any]:
        file = self._folder / TOKENIZER_CONFIG_FILE
        return read_json(file).data if file.is_file() else {}

    @property
    def _special_tokens(self) -> dict[str, str]:
        """The special tokens that the tokenizer's configuration names, as templates know them."""
        found = {name: value for name, value in self._settings.items() if name.endswith(_SPECIAL)}
        texts = {name: each.get("content") if isinstance(each, dict) else each for name, each in found.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    @cached_property
    def _template(self) -> Any:
        source = self._source()
        if source is None:
            raise InputError(
                f"{self._folder}: has no chat template, so messages cannot become a text; give the prompt as a text, "
                f"or put the model's {CHAT_FILE} into the folder it is exported from"
            )
        try:
            return sandbox().from_string(source)
        except LosparseRuntimeError:
            raise
        except Exception as error:  # jinja2's own errors, and RecursionError
            raise FolderError(f"{self._folder}: its chat template is damaged ({one_line(error)})") from error

    def _source(self) -> str | None:
        """Return the template, of a file of its own or the tokenizer's configuration; None where there is none."""
        if (self._folder / CHAT_FILE).is_file():
            try:
                return read_inside(self._folder, CHAT_FILE, _MOST_BYTES).decode("utf-8")
            except UnicodeDecodeError as error:
                raise FolderError(f"{self._folder / CHAT_FILE}: is not UTF-8 ({one_line(error)})") from error
        said = self._settings.get(_FIELD)
        if isinstance(said, list):  # several, by name
            named = [each for each in said if isinstance(each, dict) and each.get("name") == _DEFAULT]
            said = named[0].get("template") if named else None
        return said if isinstance(said, str) else None


def sandbox() -> Any:
    """Return the environment that templates run in, with what transformers' templates may use.

    Raises:
        DependencyError: jinja2 is not installed, or is one with known ways out of its sandbox.
    """
    jinja2, made = import_jinja2(), import_jinja2("sandbox")
    environment = made.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation_tag(jinja2)]
    )

    def refuse(message: object) -> NoReturn:
        raise jinja2.TemplateError(str(message))

    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    # In the place of classes, whose attributes lead to others.
    environment.globals["dict"] = lambda *pairs, **named: dict(*pairs, **named)
    environment.globals["namespace"] = _namespace()
    return environment


def _namespace() -> type:
    """Make the class of a template's own variables, none of which may have a name that Python gives a meaning to."""

    def refuse(names: Iterable[object]) -> None:
        wrong = next((each for each in names if str(each).startswith("_")), None)
        if wrong is not None:
            raise import_jinja2("exceptions").SecurityError(f"a namespace must not hold {str(wrong)!r}")

    class Namespace(import_jinja2("utils").Namespace):  # type: ignore[misc]  # a class that is known at run time
        def __init__(*own: Any, **named: Any) -> None:
            values = dict(*own[1:], **named)
            refuse(values)
            super(Namespace, own[0]).__init__(values)

        def __setitem__(self, name: str, value: Any) -> None:
            refuse([name])
            super().__setitem__(name, value)

    return Namespace


def _generation_tag(jinja2: Any) -> type:
    """Make the extension for `{% generation %}`, which marks the model's own parts for training: it changes nothing."""

    class GenerationTag(import_jinja2("ext").Extension):  # type: ignore[misc]  # a class that is known at run time
        tags = {"generation"}  # noqa: RUF012 - as jinja2 has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    return GenerationTag


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Write JSON; jinja2's own filter writes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _message(message: object, name: str, place: int) -> dict[str, Any]:
    """Return a message of plain values, without those that are None, which templates would write as "None"."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InputError(f"message {place} of {name} must be a dict with a 'role' that is a text, got {message!r:.80}")
    return {str(key): _plain(value) for key, value in message.items() if value is not None}


def _plain(value: object) -> Any:
    """Rebuild a value of plain types: methods of others, as of an image, are none of a stranger's business."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return f"<{type(value).__name__}>"
