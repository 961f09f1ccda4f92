import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from patchad.errors import RequestError
from patchad.methods import METHODS, all_methods, method_of
from patchad.methods.configure import check_config, read_config, resolve
from patchad.methods.declared import (
    body_parts,
    declared_options,
    defaults,
    members,
    own_setting,
    purpose_of,
    quick_options,
    trainable,
)
from patchad.model.configurations import merge, packaged, purpose


def test_every_packaged_configuration_is_valid() -> None:
    assert "wei2018" in packaged()
    for name in packaged():
        read_config(name)


RESOLVED = json.loads(Path(__file__).with_name("resolved_configurations.json").read_text("utf-8"))


@pytest.mark.parametrize("name", sorted(RESOLVED))
def test_a_packaged_configuration_resolves_to_what_results_were_measured_with(name: str) -> None:
    content = json.loads(json.dumps(read_config(name).as_dict()))
    for member in content.get("fused", {}).get("members", {}).values():
        member.pop("method", None)  # its name, here
    assert content == RESOLVED[name]


def test_wei2018_is_as_published() -> None:
    config = read_config("wei2018")
    assert (config.method, config.patch_size) == ("wei2018", 128)
    options = config.options
    assert (options.epochs, options.batch_size, options.learning_rate) == (500, 200, 1e-3)
    assert (options.betas, options.activation) == ((0.9, 0.999), "relu")
    assert config.split.held_out == 0.1


def test_overrides_are_toml_and_text() -> None:
    config = read_config(
        "wei2018",
        ["wei2018.epochs=3", "stride=32", "preprocessing.body_part=chest", 'split.by="patch"'],
    )
    assert config.options.epochs == 3
    assert config.stride == 32
    assert config.preprocessing.body_part == "chest"
    assert config.split.by == "patch"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("wei2018.epoch=3", "there are epochs, batch_size"),
        ("colour=1", "colour: no such option"),
        ("preprocessing.bodypart=chest", "preprocessing.bodypart: no such option"),
        ("wei2018.epochs=many", "wei2018.epochs"),
        ("wei2018.epochs=0", "at least 1"),
        ("stride=129", "stride lies in 1..128"),
        ("stride=0", "stride lies in"),
        ("min_foreground=0", "min_foreground"),
        ("split.held_out=1.5", "held_out is a share"),
        ("calibration.top_k=0", "top_k"),
        ("method=wei2019", "one of wei2018"),
        ("options=3", "the table [wei2018]"),
        ("stride", "KEY=VALUE"),
        ("stride.x=3", "not a table"),
    ],
)
def test_a_wrong_override_is_named(override: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_config("wei2018", [override])
    assert said in str(caught.value)


def test_a_table_of_another_method_is_an_unknown_key() -> None:
    with pytest.raises(RequestError, match="memae is not its method"):
        resolve({"method": "wei2018", "memae": {"epochs": 1}})


def test_what_is_resolved_can_be_stored_and_read_again(tmp_path: Path) -> None:
    config = read_config("wei2018", ["wei2018.epochs=7", "preprocessing.spacing_mm=0.2"])
    stored = json.loads(json.dumps(config.as_dict()))
    assert stored["wei2018"]["epochs"] == 7
    assert stored["calibration"]["false_images"] == 0.05  # defaults are written out
    assert resolve(stored) == config


@pytest.mark.parametrize("name", sorted(packaged()))
def test_a_packaged_configuration_says_in_a_line_what_it_is_for(name: str) -> None:
    line = purpose(packaged()[name])
    assert line.endswith(".")
    assert 20 < len(line) < 90
    check_config(name)


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("wei2018", "epochs=5", "epochs: no such option (did you mean wei2018.epochs?)"),
        ("wei2018", "wei2018.epoch=5", "wei2018.epoch: no such option (did you mean epochs?)"),
        ("wei2018", "preproccessing.voi=lut", "(did you mean preprocessing?)"),
        ("wei2018", "held_out=0.2", "(did you mean split.held_out?)"),
        ("wei2018", "wei2018.epochs=many", "wei2018.epochs: "),
        ("wei2018", "method=wei2108", "(did you mean wei2018?)"),
        ("mammography", "wei2018.epochs=5", "wei2018 is not its method, which is fused"),
        ("mammography", "fused.smoothnig=1", "(did you mean smoothing?)"),
        (
            "mammography",
            "fused.members.synthetic_lesions.options.step=5",
            "fused.members.synthetic_lesions.options.step: no such option (did you mean steps?)",
        ),
        (
            "mammography",
            "steps=5",
            "(did you mean fused.members.synthetic_lesions.options.steps?)",
        ),
        (
            "mammography",
            "fused.members.synthetic_lesions.steps=5",
            "(did you mean fused.members.synthetic_lesions.options.steps?)",
        ),
        (
            "mammography",
            "fused.members.calcification.options.steps=5",
            "(did you mean fused.members.synthetic_lesions.options.steps?)",
        ),
        ("mammography", "fused.steps=5", "fused.members.synthetic_lesions.options.steps?)"),
        (
            "mammography",
            "fused.members.convergance.weight=1",
            "'convergance' for a member (did you mean convergence?)",
        ),
        ("mammography", "fused.members.fused.weight=1", "no method 'fused' for a member"),
        ("wei2018", "epoch=5", "epoch: no such option (did you mean wei2018.epochs?)"),
        ("wei2018", "preprocessing.stride=5", "(did you mean stride?)"),
        ("wei2018", "preprocessing.held_out=0.2", "(did you mean split.held_out?)"),
        ("wei2018", "wei2018.folds=3", "(did you mean calibration.folds?)"),
        ("wei2018", "base=chest", "base: no such option"),
        (
            "mammography",
            "fused.members.dae=false",
            "there is none of this name; there are convergence, synthetic_lesions, calcification",
        ),
    ],
)
def test_what_was_meant_is_said_before_and_when_the_method_is_there(
    name: str, override: str, said: str
) -> None:
    for read in (check_config, read_config):
        with pytest.raises(RequestError) as caught:
            read(name, [override])
        assert said in str(caught.value)


def test_the_nearest_configuration_is_named() -> None:
    with pytest.raises(RequestError, match=r"did you mean mammography\?"):
        read_config("mamography")


@pytest.mark.parametrize("method", METHODS)
def test_the_declared_options_are_those_of_the_method(method: str) -> None:
    declared = get_type_hints(declared_options(method))
    real = get_type_hints(method_of(method).config)
    assert [*declared] == [*real]
    assert {name: real[name] for name in real if declared[name] is not Any} == {
        name: kind for name, kind in declared.items() if kind is not Any
    }


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('method = "wei2018"\n[wei2018]\nepochs = 2\n')
    assert read_config(str(path)).options.epochs == 2
    path.write_text("method = ")
    with pytest.raises(RequestError, match="TOML"):
        read_config(str(path))
    with pytest.raises(RequestError, match="no configuration"):
        read_config(str(tmp_path / "missing.toml"))


def test_a_base_is_merged_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "site.toml").write_text(
        'base = "wei2018"\nstride = 32\n[preprocessing]\nspacing_mm = 0.1\n'
        "[wei2018]\nbetas = [0.5, 0.9]\n"
    )
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "parts/site.toml"\n[preprocessing]\nvoi = "lut"\n')
    config, published = read_config(str(mine), ["wei2018.epochs=2"]), read_config("wei2018")
    assert (config.stride, config.patch_size) == (32, published.patch_size)
    assert (config.preprocessing.voi, config.preprocessing.spacing_mm) == ("lut", 0.1)
    assert config.options.betas == (0.5, 0.9)
    assert (config.options.epochs, config.options.batch_size) == (2, 200)
    assert config.calibration == published.calibration


def test_tables_are_merged_and_everything_else_is_replaced() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 3}
    assert merge(base, {"a": {"y": [3], "z": {"deep": 1}}}, "") == {
        "a": {"x": 1, "y": [3], "z": {"deep": 1}},
        "b": 3,
    }
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 3}
    with pytest.raises(RequestError, match="mine: b is not a table; it is 3"):
        merge(base, {"b": {"x": 1}}, "mine")


def test_bases_in_a_circle_are_named(tmp_path: Path) -> None:
    for name, base in {"a": "b", "b": "c", "c": "b"}.items():
        (tmp_path / f"{name}.toml").write_text(f'base = "{base}.toml"\n')
    with pytest.raises(
        RequestError, match=r"circular: .*a\.toml → .*b\.toml → .*c\.toml → .*b\.to"
    ):
        read_config(str(tmp_path / "a.toml"))


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ('"use/mamogram"', r"no base 'use/mamogram' \(did you mean use/mammogram\?\)"),
        ("3", "a name or a path in quotes; got 3"),
        ('"use/chest"', "method is None"),
    ],
)
def test_a_wrong_base_is_named(tmp_path: Path, base: str, said: str) -> None:
    (tmp_path / "mine.toml").write_text(f"base = {base}\n")
    with pytest.raises(RequestError, match=said):
        read_config(str(tmp_path / "mine.toml"))


def test_another_method_than_the_bases_leaves_its_table_behind(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "mammography"\nmethod = "convergence"\n')
    assert read_config(str(mine)).method == "convergence"
    assert read_config(str(mine)).preprocessing == read_config("mammography").preprocessing


def test_a_member_can_be_taken_away(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "mammography"\n[fused.members]\ncalcification = false\n')
    assert [*read_config(str(mine)).options.members] == ["convergence", "synthetic_lesions"]
    config = read_config("mammography", ["fused.members.convergence=false"])
    assert [*config.options.members] == ["synthetic_lesions", "calcification"]


def test_members_have_names_of_their_own() -> None:
    own = {
        "members": {
            "dae": {"weight": 2, "options": {"steps": 3}},
            "second": {"method": "dae"},
            "wrong": 3,
        }
    }
    assert members("fused", own) == {"dae": ("dae", {"steps": 3}), "second": ("dae", {})}
    assert members("dae", own) == {}
    config = read_config(
        "chest",
        ["fused.members.second.method=dae", "fused.members.second.options.steps=3"],
    )
    second = config.options.members["second"]
    assert (second.method, second.weight, second.options.steps) == ("dae", 1.0, 3)
    assert config.options.members["dae"].options.steps == 400


@pytest.mark.parametrize("method", METHODS)
def test_the_declared_body_parts_are_those_of_the_method(method: str) -> None:
    assert body_parts(method) == method_of(method).needs.body_parts


@pytest.mark.parametrize("method", trainable())
def test_every_method_trains_by_its_name(method: str) -> None:
    config = read_config(method)
    assert config.method == method
    assert len(purpose_of(method)) > 20
    if method not in packaged():
        assert config.options == method_of(method).config()
        use = {"breast": "mammography", "chest": "chest"}[config.preprocessing.body_part]
        assert config.preprocessing == read_config(use).preprocessing
        assert config.preprocessing.body_part == body_parts(method)[0]


def test_fused_alone_has_no_members() -> None:
    with pytest.raises(RequestError, match="use mammography or chest") as caught:
        check_config("fused")
    for name in ("mammography", "chest"):
        assert name in str(caught.value)
        assert read_config(name).method == "fused"


def test_hostile_files_and_settings_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text(f'base = "{"a" * 300}"\n')
    (tmp_path / "deep.toml").write_text("x = " + "[" * 3000 + "]" * 3000 + "\n")
    (tmp_path / "0.toml").write_text('method = "wei2018"\n')
    for number in range(1, 20):
        (tmp_path / f"{number}.toml").write_text(f'base = "{number - 1}.toml"\n')
    for name, said in (("long", "no base"), ("deep", "not a readable"), ("19", "more than 16")):
        with pytest.raises(RequestError, match=said):
            read_config(str(tmp_path / f"{name}.toml"))
    with pytest.raises(RequestError, match="no configuration"):
        read_config("a" * 300)
    (tmp_path / "gone.toml").write_text('method = "fused"\n[fused.members]\nx = false\n')
    with pytest.raises(RequestError, match="removes a member, but there is none"):
        read_config(str(tmp_path / "gone.toml"))
    for override in ("wei2018.x=" + "[" * 3000, ".".join("a" * 3000) + "=1"):
        with pytest.raises(RequestError):
            read_config("wei2018", [override])


def test_a_method_stands_for_the_body_part_and_the_patches_of_its_paper() -> None:
    film, patch = read_config("ae"), read_config("fanogan")
    assert (film.preprocessing.body_part, film.patch_size, film.stride) == ("chest", 128, 64)
    assert (patch.preprocessing.body_part, patch.patch_size, patch.stride) == ("breast", 64, 32)


def test_quick_options_take_the_place_of_the_papers_but_not_of_overrides() -> None:
    assert read_config("igd").options.epochs == 256
    quick = read_config("igd", ["igd.batch_size=8"], quick=True).options
    assert (quick.epochs, quick.batch_size) == (20, 8)
    assert read_config("igd", ["igd.epochs=7"], quick=True).options.epochs == 7
    assert read_config("wei2018", quick=True).options.epochs == 40  # though its file says 500
    check_config("wei2018", ["wei2018.epochs=3"], quick=True)


@pytest.mark.parametrize("field", [17, 33, 65])
def test_quick_leaves_what_a_file_has_other_than_the_paper(field: int) -> None:
    quick = read_config(f"students_{field}", quick=True).options
    assert quick.fields == (field,)
    assert (quick.width, quick.epochs) == (32, 2)
    assert read_config("students", quick=True).options.fields == (17, 33)


def test_defaults_read_from_the_source_are_the_methods_own() -> None:
    for method in all_methods():
        for key, value in defaults(method.name).items():
            assert value == getattr(method.config, key), (method.name, key)
    assert defaults("students")["fields"] == (17, 33, 65)


@pytest.mark.parametrize("name", ["chest", "convergence"])
def test_what_is_quick_already_has_no_quick_setting(name: str) -> None:
    for read in (read_config, check_config):
        with pytest.raises(RequestError, match=r"no quick setting.*leave --quick out"):
            read(name, quick=True)


def test_what_sources_declare_is_what_methods_are() -> None:
    for method in all_methods():
        assert own_setting(method.name) == method.setting
        assert quick_options(method.name) == method.quick
        assert set(method.quick) <= {field.name for field in fields(method.config)}
        if method.quick:
            assert read_config(method.name, quick=True).options != method.config()
