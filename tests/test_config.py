import json
from pathlib import Path

import pytest

from patchad.config import packaged, read_config, resolve
from patchad.errors import RequestError


def test_every_packaged_configuration_is_valid() -> None:
    assert "wei2018" in packaged()
    for name in packaged():
        read_config(name)


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
        ("wei2018.epoch=3", "wei2018.epoch: no such option; there are epochs"),
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
    with pytest.raises(RequestError, match="memae: no such option"):
        resolve({"method": "wei2018", "memae": {"epochs": 1}})


def test_what_is_resolved_can_be_stored_and_read_again(tmp_path: Path) -> None:
    config = read_config("wei2018", ["wei2018.epochs=7", "preprocessing.spacing_mm=0.2"])
    stored = json.loads(json.dumps(config.as_dict()))
    assert stored["wei2018"]["epochs"] == 7
    assert stored["calibration"]["false_images"] == 0.05  # defaults are written out
    assert resolve(stored) == config


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('method = "wei2018"\n[wei2018]\nepochs = 2\n')
    assert read_config(str(path)).options.epochs == 2
    path.write_text("method = ")
    with pytest.raises(RequestError, match="TOML"):
        read_config(str(path))
    with pytest.raises(RequestError, match="no configuration"):
        read_config(str(tmp_path / "missing.toml"))
