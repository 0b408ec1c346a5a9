"""A prompt template as a chat template, in Jinja, for `apply_chat_template`, servers and trainers."""

import json
import re

# The prompt template as a chat. All the images of a message are views of one study and share one placeholder.
_CHAT_TEMPLATE = """\
{{- bos_token | default("") -}}
{%- for message in messages -%}
    {%- if message.content is string -%}
        {%- set parts = [{"type": "text", "text": message.content}] -%}
    {%- else -%}
        {%- set parts = message.content -%}
    {%- endif -%}
    {%- set text = parts | selectattr("type", "equalto", "text") | map(attribute="text") | join(" ") -%}
    {%- if message.role == "user" -%}
        {%- if parts | selectattr("type", "equalto", "image") | list -%}
            {{- WITH_IMAGE | replace("{instruction}", text or INSTRUCTION) -}}
        {%- else -%}
            {{- WITHOUT_IMAGE | replace("{instruction}", text) -}}
        {%- endif -%}
    {%- elif message.role == "assistant" -%}
        {{- CUE + text + (eos_token | default("")) -}}
    {%- else -%}
        {{- text + " \\n" -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- CUE -}}{%- endif -%}
"""
_IMAGE_FIELD = re.compile(r"(<[^<>]*>)?\{image\}(</[^<>]*>)?\s?")


def default_chat_template(image_token: str, instruction: str, prompt_template: str) -> str:
    """The chat template that says the same as a prompt template.

    A user's message with images becomes the prompt, with its text as the instruction; what follows the template's last
    field (its last line, where it has several) is the cue for the assistant's message. bos and eos are part of the
    text, as servers and trainers that tokenize it without special tokens expect.
    """
    last_field = max(prompt_template.rindex(field) + len(field) for field in ("{image}", "{instruction}"))
    before, line_break, cue = prompt_template[last_field:].rpartition("\n")
    turn = prompt_template[:last_field] + before + line_break
    values = {
        "WITH_IMAGE": turn.replace("{image}", image_token),
        "WITHOUT_IMAGE": _IMAGE_FIELD.sub("", turn),
        "INSTRUCTION": instruction,
        "CUE": cue,
    }
    return re.sub(r"\b(" + "|".join(values) + r")\b", lambda found: json.dumps(values[found[0]]), _CHAT_TEMPLATE)


__all__ = ["default_chat_template"]
