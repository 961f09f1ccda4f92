"""What CONTRIBUTING.md says of the layout, kept: layers, dependencies, sizes, links."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "patchad"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# The rooms in the order in which an image passes them. A file imports its own room or one before.
ROOMS = (
    ("version", "errors", "progress", "device"),  # the root
    ("core",),
    ("files",),
    ("read",),
    ("prepare",),
    ("lesions",),
    ("phantoms",),
    ("model",),
    ("learn",),
    ("methods",),
    ("engine",),
    ("store",),
    ("net",),
    ("export",),
    ("evaluation",),
    ("commands",),
    ("", "cli"),  # patchad/__init__.py offers the commands to Python
)
LAYERS = {name: number for number, room in enumerate(ROOMS) for name in room}
# Dependencies that no file imports by name.
UNNAMED = {
    "imagecodecs": "tifffile takes its decoders from it",
    "pyarrow": "pandas reads and writes Parquet with it",
}
SLOW_TO_IMPORT = {"torch", "monai", "matplotlib", "pandas", "scipy", "skimage", "sklearn"}
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PICKLING_CALLS = {
    ("torch", "load"),
    ("torch", "save"),
    ("pd", "read_pickle"),
    ("pandas", "read_pickle"),
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """(module, name or None) of each import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            yield from ((node.module, alias.name) for alias in node.names)


def layer(module):
    room = module.removeprefix("patchad").lstrip(".").partition(".")[0]
    if room not in LAYERS:
        pytest.fail(f"{module} is in no room that tests/test_house.py knows")
    return LAYERS[room]


MODULES = {module_name(path) for path in SOURCES}


def test_files_import_only_their_own_room_or_one_before():
    upward = []
    for path in SOURCES:
        own = module_name(path)
        for module, name in imports(path):
            if module.partition(".")[0] != "patchad":
                continue
            target = f"{module}.{name}" if f"{module}.{name}" in MODULES else module
            if layer(target) > layer(own):
                upward.append(f"{own} ({layer(own)}) imports {target} ({layer(target)})")
    assert upward == []


def test_no_circle():
    """Not between files, and not between rooms: those are held by the order of ROOMS."""
    needs = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        named = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
        needs[module_name(path)] = {
            f"{n.module}.{a.name}" if f"{n.module}.{a.name}" in MODULES else n.module
            for n in named
            for a in n.names
        } & MODULES
    done = set()
    while ready := {name for name, own in needs.items() if name not in done and own <= done}:
        done |= ready
    assert set(needs) - done == set()


def test_the_root_holds_at_most_eight_modules():
    assert len([path for path in SOURCES if path.parent == PACKAGE]) <= 8


def test_patchad_imports_nothing_else_of_this_repository():
    others = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"patchad"}
    tops = {module.partition(".")[0] for path in SOURCES for module, _ in imports(path)}
    assert tops & others == set()


def test_dependencies_are_those_that_are_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in project["dependencies"]}
    distributions = packages_distributions()
    imported = {
        distributions[top][0].lower().replace("_", "-")
        for path in SOURCES
        for module, _ in imports(path)
        if (top := module.partition(".")[0]) not in sys.stdlib_module_names | {"patchad"}
    }
    assert imported - declared == set(), "imported, but not declared in pyproject.toml"
    assert declared - imported - set(UNNAMED) == set(), "declared, but never imported"


def test_every_dependency_is_pinned_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.lower().replace("_", "-") for line in lines if not line.startswith("#")]
    names = [pin.partition("==")[0] for pin in pins]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)
    assert len(set(names)) == len(names)
    assert {re.match(r"[\w-]+", line)[0].lower() for line in wanted} <= set(names)


def test_no_file_is_past_400_lines():
    lengths = {module_name(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_test_imports_a_test():
    tests = sorted((ROOT / "tests").glob("*.py"))
    found = [
        f"{path.name}: {module}"
        for path in tests
        for module, _ in imports(path)
        if module.startswith("test_")
    ]
    assert found == []


def test_there_is_one_training_loop():
    """Beside it, only the registration of a film takes gradients, of four numbers."""
    found = {module_name(path) for path in SOURCES if ".backward(" in path.read_text("utf-8")}
    assert found == {"patchad.learn.loop", "patchad.methods.parts.chest_frame"}


def test_arrays_have_their_names_from_one_file():
    defined = [
        f"{module_name(path)}: {node.targets[0].id}"
        for path in SOURCES
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("Floats", "Mask")
    ]
    assert defined == ["patchad.core.arrays: Floats", "patchad.core.arrays: Mask"]


def test_nothing_runs_code_out_of_a_file():
    found = []
    for path in SOURCES:
        found += [f"{path}: {top}" for top, _ in imports(path) if top in PICKLERS]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="eval" | "exec" | "__import__")):
                    found.append(f"{path}:{node.lineno}")
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
                    if (owner, name) in PICKLING_CALLS:
                        found.append(f"{path}:{node.lineno}: {owner}.{name}")
                case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
                    found.append(f"{path}:{node.value.lineno}: allow_pickle")
    assert found == []


@pytest.mark.parametrize(
    "code",
    ["import patchad", "sys.argv[1:] = ['--help']; from patchad.cli.app import main; main()"],
    ids=["import", "help"],
)
def test_help_does_not_wait_for_slow_libraries(code):
    watch = f"""
import sys
try:
    {code}
except SystemExit as end:
    assert not end.code, end.code
print('loaded:', *sorted(set({sorted(SLOW_TO_IMPORT)}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.*")), ids=lambda path: path.name)
def test_packaged_configurations_are_whole(path):
    from patchad.methods.configure import read_config

    assert path.suffix == ".toml"
    assert read_config(path.stem) == read_config(str(path))


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_the_docs_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)|<img[^>]+src=\"([^\"]+)\"", text)
    local = [a or b for a, b in targets if not re.match(r"https?:|mailto:|#", a or b)]
    missing = [link for link in local if not (page.parent / link.partition("#")[0]).exists()]
    assert missing == []
    for link in local:
        file, _, anchor = link.partition("#")
        if anchor and file.endswith(".md"):
            assert anchor in anchors((page.parent / file).read_text("utf-8")), link


def anchors(text):
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
