"""How `--help` looks: plain text that wraps to any terminal, nothing of it cut."""

from typing import Any

import typer
from typer.core import TyperGroup

# Longer than any first sentence.
_WHOLE = 10_000


class _WholeHelpGroup(TyperGroup):
    """Commands with the whole first sentence of their help, which is cut to a line otherwise."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the list of commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(_WHOLE)) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def command_group(description: str, **options: Any) -> typer.Typer:
    """A group of commands.

    Args:
        description: what `--help` says of it.
        options: further ones of `typer.Typer`.
    """
    # Of typer's styles the plain one alone gives names of options the room that they need.
    return typer.Typer(cls=_WholeHelpGroup, help=description, no_args_is_help=True, rich_markup_mode=None, **options)


__all__ = ["command_group"]
