"""The command `patchad methods`."""

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchad.cli.console import as_lines, print_result, reporting

if TYPE_CHECKING:
    from patchad.model.method import Method

FIRST = (
    "Start with --config mammography for mammograms, --config chest for frontal chest films: each "
    "is a fusion of three of these methods.",
    "Any other trains by its name, such as --config aeu; patchad methods NAME tells its paper, "
    "options and needs.",
)
FAMILIES = {
    "reconstruction": "a network redraws normal tissue; what it fails to redraw is the score",
    "adversarial": "the same, by networks that were trained against a discriminator or critic",
    "density": "how rare a description of the place is among negatives",
    "synthetic": "a network learns to find anomalies that are drawn into negatives",
    "distillation": "students imitate a teacher on negatives; where they disagree is the score",
    "filters": "filters for shapes that lesions have, in units of their response to negatives",
    "fusion": "the weighted sum of several methods",
}


def methods(
    name: Annotated[
        str | None, typer.Argument(help="A method: its paper, needs and options.")
    ] = None,
) -> None:
    """List the methods by family, or show one."""
    with reporting():
        from patchad.methods import all_methods, method_of
        from patchad.methods.declared import purpose_of

        if name is not None:
            one = method_of(name)
            about = {"purpose": purpose_of(name), **_about(one), **_options(one)}
            print_result(about, as_lines(about))
            return
        found = all_methods()
        lines = [*FIRST]
        for family, meaning in FAMILIES.items():
            lines += ["", f"{family}: {meaning}"]
            lines += [
                f"  {one.name:<20} {purpose_of(one.name)} {_cited(one)}{_also(one)}"
                for one in found
                if one.family == family
            ]
        print_result({"methods": [_about(one) for one in found]}, lines)


def _about(method: "Method") -> dict[str, Any]:
    return {
        "name": method.name,
        "family": method.family,
        "paper": method.paper,
        "needs": method.needs.words,
        "gives": method.gives.words,
    }


def _options(method: "Method") -> dict[str, Any]:
    """The paper's options, and what its quick setting and its patches change."""
    own = {} if method.family == "fusion" else asdict(method.config())
    return {"options": own, "quick": dict(method.quick), "setting": dict(method.setting)}


def _cited(method: "Method") -> str:
    """Authors and year of its paper, the first that is cited, in brackets."""
    authors = method.paper.partition(",")[0]
    words = re.sub(r"(doi|https?:)\S* ?\S*", "", method.paper)
    words = re.sub(r"arXiv (\d\d)\d\d\.\d+", r"20\1", words)
    years = re.findall(r"\b(?:19|20)\d\d\b", words)
    return f"({authors}, {years[0]})" if years else ""


def _also(method: "Method") -> str:
    """What a method needs besides negatives, in brackets."""
    needs = method.needs
    parts = ["scores patches"] if method.gives.kind == "patch" else []
    if len(needs.body_parts) == 1:
        parts.append(f"{needs.body_parts[0]} only")
    if needs.unlabelled:
        parts.append("needs unlabelled films")
    if needs.spacing:
        parts.append("needs pixel spacing")
    return f" [{', '.join(parts)}]" if parts else ""
