"""Each kind of DICOM object declares itself, and the table of names says the same."""

import pytest

from patchad.errors import RequestError
from patchad.export import DICOM_KINDS, KINDS, RUN_KINDS
from patchad.export.dicom import OF_A_RUN, OF_AN_IMAGE
from patchad.export.dicom.kind import image_kinds, run_kinds
from patchad.export.write import check_kinds


def test_the_table_of_names_says_what_the_kinds_say() -> None:
    images, runs = image_kinds(KINDS), run_kinds(KINDS)
    assert [kind.name for kind in images] == list(OF_AN_IMAGE) == list(DICOM_KINDS)
    assert [kind.name for kind in runs] == list(OF_A_RUN)
    assert {kind.scope for kind in images} == {"image"}
    assert {kind.scope for kind in runs} == {"run"}
    assert set(OF_A_RUN) < set(RUN_KINDS)


def test_no_two_kinds_share_a_series() -> None:
    kinds = (*image_kinds(KINDS), *run_kinds(KINDS))
    assert {kind.name: kind.number for kind in kinds} == {
        **{"sc": 9401, "gsps": 9402, "sr": 9403, "seg": 9404, "heatmap-seg": 9405, "ko": 9406},
        **{"cad-sr": 9407, "pm": 9408},
    }
    assert len({kind.title for kind in kinds}) == len(kinds)
    assert {kind.name for kind in kinds if kind.alone} == {"seg", "heatmap-seg", "pm"}


def test_only_the_kinds_that_are_asked_for_are_found() -> None:
    assert [kind.name for kind in image_kinds(("report", "sr", "sc", "ko"))] == ["sc", "sr"]
    assert image_kinds(("heatmap", "overlay", "geojson", "report")) == ()
    assert run_kinds(("sc", "report")) == ()


def test_a_kind_names_the_option_that_it_needs() -> None:
    for kind in image_kinds(DICOM_KINDS):
        if kind.needs is None:
            check_kinds((kind.name,), invent_geometry=False)
        else:
            with pytest.raises(RequestError, match=f"--write {kind.name} needs --invent-geometry"):
                check_kinds((kind.name,), invent_geometry=False)
