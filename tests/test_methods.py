"""What every method keeps to, whoever wrote it."""

import json
from dataclasses import fields, is_dataclass

import pytest

from patchad.errors import RequestError
from patchad.methods import METHODS, about, module_of
from patchad.methods.configure import read_config
from patchad.model.configurations import packaged


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name: str) -> None:
    module = module_of(name)
    assert module.METHOD == module.ABOUT.name == name
    assert all(getattr(module.ABOUT, field.name) for field in fields(module.ABOUT))
    assert is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert callable(module.fit)
    assert callable(module.restore)


def test_all_are_listed_with_their_papers() -> None:
    assert [one.name for one in about()] == list(METHODS)


def test_an_unknown_one_is_named() -> None:
    with pytest.raises(RequestError, match="nosuch"):
        module_of("nosuch")


@pytest.mark.parametrize("name", sorted(packaged()))
def test_a_packaged_configuration_is_whole_and_is_json(name: str) -> None:
    config = read_config(name)
    content = json.loads(json.dumps(config.as_dict()))
    assert content["method"] in METHODS
    assert set(content[content["method"]]) == {field.name for field in fields(config.options)}


@pytest.mark.parametrize("name", ["mammography", "chest"])
def test_recommended_members_can_be_set(name: str) -> None:
    members = read_config(name).options.members
    assert len(members) == 3
    for member in members:
        changed = read_config(name, [f"fused.members.{member}.weight=0.25"])
        assert changed.options.members[member].weight == 0.25
