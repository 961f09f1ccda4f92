"""The command line: a command is parse, one call, print, exit code."""

import errno
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from patchad.cli.calibrate import calibrate
from patchad.cli.compare import compare
from patchad.cli.console import (
    INTERRUPTED,
    REFUSED,
    UNREAD,
    AsJson,
    Quiet,
    Verbose,
    close_output,
    output,
    print_error,
    print_result,
    with_output_options,
)
from patchad.cli.demo import demo
from patchad.cli.evaluate import evaluate
from patchad.cli.export import export
from patchad.cli.inspect import inspect
from patchad.cli.manifest import manifest
from patchad.cli.methods import methods
from patchad.cli.options import configurations
from patchad.cli.push import push
from patchad.cli.screen import screen
from patchad.cli.selftest import selftest
from patchad.cli.train import train
from patchad.version import __version__


class Commands(TyperGroup):
    """The commands; any error becomes a message and an exit code here."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run the command line and exit."""
        output.begin(sys.argv[1:] if args is None else args)
        for stream in (
            sys.stdout,
            sys.stderr,
        ):  # a path may be unprintable there
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            code = self._run(args, *more, **{**options, "standalone_mode": False})
        except typer.Exit as end:
            code = end.exit_code
        if _nobody_reads(sys.stdout):
            code = UNREAD
        sys.exit(code)

    def _run(self, *arguments: Any, **options: Any) -> int:
        try:
            return super().main(*arguments, **options) or 0
        except SystemExit as end:
            if isinstance(end.__context__, OSError) and end.__context__.errno == errno.EPIPE:
                close_output()
                return UNREAD
            return end.code if isinstance(end.code, int) else REFUSED
        except (KeyboardInterrupt, typer.Abort):
            print_error("stopped")
            return INTERRUPTED
        except Exception as error:
            if not hasattr(error, "format_message"):  # that of a wrong option or command
                raise
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "patchad"
            print_error(_message(error), f"See `{path} --help`.")
            return REFUSED


def _message(error: Any) -> str:
    nearest = getattr(error, "possibilities", None)
    if nearest:
        return f"{error.message}. Did you mean {nearest[0]}?"
    return " ".join(error.format_message().split())


def _nobody_reads(stream: Any) -> bool:
    """Whether the reader of a stream has closed it."""
    try:
        stream.flush()
    except BrokenPipeError:
        close_output()
        return True
    return False


app = typer.Typer(
    name="patchad",
    cls=Commands,
    help="One-class screening of mammograms and chest X-rays. Research use only: not a medical "
    "device.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    output.add(quiet=quiet, verbose=verbose, as_json=as_json)
    if version:
        print_result({"version": __version__}, [__version__])
        raise typer.Exit
    if context.invoked_subcommand is None:
        if output.json:
            print_error("no command was given", "See `patchad --help`.")
        else:
            print(context.get_help())
        raise typer.Exit(REFUSED)


_COMMANDS = (
    *(demo, manifest, train, calibrate, screen, evaluate, compare),
    *(selftest, export, push, inspect, methods),
)
for command in _COMMANDS:
    app.command(epilog=configurations() if command is train else None)(with_output_options(command))


def main() -> None:
    """Run the command line."""
    app()
