"""The command `patchad methods`."""

from dataclasses import asdict

from patchad.cli.console import as_lines, print_result, reporting


def methods() -> None:
    """The methods: their papers, what each needs and gives."""
    with reporting():
        from patchad.methods import about

        found = [asdict(method) for method in about()]
        print_result(
            {"methods": found},
            [line for method in found for line in ("", *as_lines(method))][1:],
        )
