"""The first page of help, which fits a screen and shows the way; what to say of a wrong command line."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import offering
from ..ranks import speak
from .commands import COMMAND, ENTRIES, Commands

HEAD = """\
Usage: twofold COMMAND ARGUMENTS [OPTIONS]
Make trained convolutional networks faster: replace large convolutions with stacks of smaller ones.
Nets and images to try it with are in examples/fashion.

  twofold inspect net.prototxt net.caffemodel                  list the layers and their cost
  twofold decompose net.prototxt net.caffemodel -o out/        write a smaller net and its plan
  twofold compare net.prototxt net.caffemodel out/             compare error, cost and time
"""
TAIL = """
For ONNX, net.onnx replaces both files. Every command has --help with examples, and --json.
Others: --version, --install-completion, --show-completion.
Exit codes: 0 done, 1 rejected (one line gives the reason), 2 wrong command line, 130 interrupted."""

#: What a command that was interrupted keeps, and how to go on; the others begin again.
RESUME = {
    "decompose": "what was measured and fitted is kept (twofold cache show); the same command goes on from "
    "there",
    "finetune": "--resume goes on from the newest snapshot",
}
AGAIN = "the same command begins again"


class Group(TyperGroup):
    """The commands of `twofold`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the first page: commands in groups, a line each."""
        formatter.write(HEAD + "\n")
        last = ""
        for name, entry in ENTRIES.items():
            formatter.write(f"  {'' if entry.panel == last else entry.panel:<10} {name:<10} {entry.about}\n")
            last = entry.panel
        formatter.write(TAIL)

    def _offered(self, ctx: Any) -> set[str] | None:
        """Options of the command that is asked for; None where there is no such command."""
        words = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        command = self.get_command(ctx, words[0]) if words else None
        if command is None:
            return None
        return {name for parameter in command.params for name in parameter.opts}

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C ends it with a line that says how to go on."""
        try:
            with offering(self._offered(ctx)):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            from ..files.cache import cache_folder  # noqa: PLC0415 - imports numpy

            begins_again = "--no-cache" in COMMAND.get() or cache_folder() is None
            hints = {**RESUME, "decompose": AGAIN} if begins_again else RESUME
            hint = hints.get(ctx.invoked_subcommand or "", AGAIN)
            speak(f"interrupted; no file was left half-written; {hint}")
            raise typer.Exit(130) from None


def usage_text(error: Any) -> str:
    """What is wrong with a command line, and where help is, in a line; help itself for no command."""
    message: str = error.format_message()
    if not message or message.startswith("Usage:"):
        return message
    path = error.ctx.command_path if error.ctx is not None else "twofold"
    return f"twofold: {' '.join(message.split()).rstrip('.')}; see {path} --help"
