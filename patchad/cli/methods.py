"""The command `patchad methods`."""

from patchad.cli.console import as_lines, print_result, reporting


def methods() -> None:
    """List the methods: their papers, what each needs and gives."""
    with reporting():
        from patchad.methods import all_methods

        found = [
            {
                "name": method.name,
                "family": method.family,
                "paper": method.paper,
                "needs": method.needs.words,
                "gives": method.gives.words,
            }
            for method in all_methods()
        ]
        print_result(
            {"methods": found},
            [line for method in found for line in ("", *as_lines(method))][1:],
        )
