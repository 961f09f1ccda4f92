"""The command line: a command is parse, one call, print, exit code."""

import logging
import sys
from typing import Annotated

import typer

from patchad.cli_models import demo, inspect, methods, selftest, train
from patchad.cli_runs import evaluate, export, push, screen
from patchad.console import voice
from patchad.version import __version__

app = typer.Typer(
    name="patchad",
    help="One-class screening of mammograms and chest X-rays. Research use only: not a medical "
    "device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Warnings and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; logs go to standard error.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    voice.quiet, voice.json = quiet, as_json
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger("patchad").setLevel(level)
    if version:
        print(__version__)
        raise typer.Exit


for command in (demo, train, screen, evaluate, selftest, export, push, inspect, methods):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    app()
