"""Chat templates: how a family writes a conversation as one text.

A template is a Jinja program that comes with the model's files.  It runs in Jinja's immutable sandbox, which gives it
the messages and nothing else: no modules, no files, no attributes of Python objects.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bellmark.errors import BadInput

Message = Mapping[str, str]
"""{"role": "user", "content": "…"}; roles are system, user and assistant."""


def render(template: str, messages: Sequence[Message], tokens: Mapping[str, str], answer: bool) -> str:
    """The conversation as text; `answer` adds what opens the assistant's turn.

    `tokens` are the special tokens that templates may name (`bos_token`, `eos_token`).
    """
    for message in messages:
        if not {"role", "content"} <= message.keys():
            raise BadInput(f"a message has the fields {sorted(message)}; needed: role and content")
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise BadInput("chat templates need an extra: pip install 'bellmark[language]'") from None

    def complain(text: str) -> Any:
        raise BadInput(f"the chat template refuses these messages: {text}")

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    try:
        return environment.from_string(template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=answer,
            raise_exception=complain,
            **tokens,
        )
    except TemplateError as error:
        raise BadInput(f"the chat template cannot be used: {' '.join(str(error).split())[:200]}") from None
