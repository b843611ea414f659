"""A group of commands with a default command."""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperGroup


class DefaultCommand(TyperGroup):
    """A group whose ``default`` command is meant where the first word names no command.

    ``search "a cat"`` then means ``search query "a cat"``.
    """

    default: ClassVar[str]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The help of the group also lists the options of its default command."""
        super().format_options(ctx, formatter)
        parameters = self.commands[self.default].params
        records = [record for each in parameters if (record := each.get_help_record(ctx))]
        with formatter.section(f"Options of {self.default}, the default command"):
            formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, args if named else [self.default, *args])
