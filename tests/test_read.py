import os
import shutil

import imagecodecs
import numpy as np
import pytest
import tifffile
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from patchad.errors import ImageError, NotARadiographError, RequestError
from patchad.read.manifest import ManifestRow
from patchad.read.read import find_images, read_entry, read_radiograph

GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def write_png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(GREY))
    return path


def write_dicom(path, preamble=b"\0" * 128, **elements):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = uid.ComputedRadiographyImageStorage, "1.2.3"
    ds.Modality, ds.SamplesPerPixel, ds.PhotometricInterpretation = "CR", 1, "MONOCHROME2"
    ds.Rows, ds.Columns = GREY.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = GREY.tobytes()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.preamble = preamble
    ds.save_as(path, enforce_file_format=True)
    return path


# --- what a file is ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["film", "film.dcm", "film.png", "film.jpg", "IM0001"])
@pytest.mark.parametrize(
    "write",
    [
        write_png,
        write_dicom,
        lambda path: path.write_bytes(imagecodecs.png_encode(GREY)),
        lambda path: tifffile.imwrite(path, GREY),
        lambda path: tifffile.imwrite(path, GREY, byteorder=">", bigtiff=True),
        lambda path: path.write_bytes(b"P5 3 2 255\n" + GREY.tobytes()),
        lambda path: path.write_bytes(b"P2 3 2 255\n0 51 102 153 204 255"),
    ],
    ids=["png", "dicom", "png2", "tiff", "bigtiff", "pgm", "ascii"],
)
def test_the_content_tells_what_a_file_is(tmp_path, write, name):
    write(tmp_path / name)
    radiograph = read_radiograph(tmp_path / name)
    np.testing.assert_allclose(radiograph.pixels, GREY / 255, rtol=1e-6)
    assert radiograph.source.path == str(tmp_path / name)


def test_a_dicom_file_whose_preamble_is_a_tiff(tmp_path):
    path = write_dicom(tmp_path / "dual", preamble=b"II*\0".ljust(128, b"\0"))
    assert read_radiograph(path).source.modality == "CR"


def test_the_given_spacing_serves_where_the_file_says_none(tmp_path):
    path = write_png(tmp_path / "a.png")
    assert read_radiograph(path).spacing_mm is None
    assert read_radiograph(path, spacing_mm=(0.2, 0.1)).spacing_mm == (0.2, 0.1)
    dicom = write_dicom(tmp_path / "b.dcm", PixelSpacing=[0.3, 0.4])
    assert read_radiograph(dicom, spacing_mm=(0.2, 0.1)).spacing_mm == (0.3, 0.4)


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_a_spacing_that_cannot_be_is_a_wrong_request(tmp_path, spacing):
    with pytest.raises(RequestError, match="positive millimetres"):
        read_radiograph(write_png(tmp_path / "a.png"), spacing_mm=spacing)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"Patient: Doe^Jane", "not an image patchad reads"),
        (b"GIF89a" + b"\0" * 200, "not an image patchad reads"),
        (b"\x08\0" + b"\xff" * 300, "DICOM"),
        (b"\x02\0" + b"\0" * 300, "DICOM"),
        (b"\0" * 128 + b"DICM", "neither a SOP class nor a size"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 50, "DICOM"),
    ],
)
def test_what_is_no_image_is_said_without_quoting_it(tmp_path, content, message):
    path = tmp_path / "film.dcm"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_radiograph(path)
    assert "Doe" not in str(caught.value)
    assert not isinstance(caught.value, NotARadiographError)


def test_missing_files_folders_and_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("none", "No such file"), (".", "a folder"), ("pipe", "a device")):
        with pytest.raises(ImageError, match=message):
            read_radiograph(tmp_path / name)


# --- what a user names ---------------------------------------------------------------------------


def test_a_folder_is_searched_through_in_order(tmp_path):
    names = ["b/2.png", "b/10.png", "a.dcm", "IM0001", "c/d/e.tif"]
    for name in names:
        write_png(tmp_path / name)
    beside = ["notes.txt", "manifest.csv", "x.pdf", "b/report.XML", ".hidden.png", "t.json"]
    for name in [*beside, ".git/1.png", "DICOMDIR", "b/dicomdir"]:
        write_png(tmp_path / name)
    (tmp_path / "broken.dcm").write_bytes(b"broken")
    found = [str(row.path.relative_to(tmp_path)) for row in find_images([tmp_path])]
    assert found == ["IM0001", "a.dcm", "b/10.png", "b/2.png", "broken.dcm", "c/d/e.tif"]
    assert find_images([tmp_path])[0] == ManifestRow(tmp_path / "IM0001")


def test_links_do_not_loop_and_broken_ones_get_a_row(tmp_path):
    folder = tmp_path / "study"
    write_png(folder / "series" / "1.png")
    (folder / "series" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    write_png(tmp_path / "elsewhere" / "2.png")
    (folder / "other").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "pipe")
    rows = find_images([folder])
    found = [str(row.path.relative_to(folder)) for row in rows]
    assert found == ["gone.png", "other/2.png", "self", "series/1.png"]
    with pytest.raises(ImageError, match="cannot be read"):
        read_radiograph(rows[2].path)


def test_files_folders_and_manifests_together_each_image_once(tmp_path, monkeypatch):
    write_png(tmp_path / "films" / "1.png")
    write_png(tmp_path / "films" / "2.png")
    single = write_png(tmp_path / "single.xyz")
    table = tmp_path / "films.csv"
    table.write_text("path,patient_id,label,spacing_mm\nfilms/2.png,P2,positive,0.2\n")
    monkeypatch.chdir(tmp_path)
    rows = find_images([table.relative_to(tmp_path), tmp_path / "films", single, single])
    assert [row.path for row in rows] == [
        tmp_path / "films" / "2.png",
        tmp_path / "films" / "1.png",
        single,
    ]
    assert (rows[0].label, rows[0].spacing_mm) == ("positive", (0.2, 0.2))
    (row,) = find_images([single.relative_to(tmp_path)])
    assert row.path == single


def test_an_image_of_a_manifest_may_be_missing_until_it_is_read(tmp_path):
    write_png(tmp_path / "there.png")
    table = tmp_path / "films.csv"
    table.write_text("path,patient_id,label\nnone.png,P1,negative\nthere.png,P2,negative\n")
    missing, there = find_images([table])
    with pytest.raises(ImageError, match="no such file: paths are relative to the folder of the m"):
        read_entry(missing)
    assert read_entry(there).shape == GREY.shape
    table.write_text("path,patient_id,label\nnone.png,P1,negative\nx/there.png,P2,negative\n")
    with pytest.raises(RequestError, match=rf"none of the 2 .*{tmp_path}/none.png.*relative"):
        find_images([table])


def test_wrong_requests(tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        find_images([tmp_path / "none.png"])
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("nothing here")
    with pytest.raises(RequestError, match="holds no images"):
        find_images([tmp_path / "empty"])


@pytest.mark.real
def test_a_folder_of_real_and_broken_files(real_data, tmp_path):
    source = real_data / "pydicom-data"
    for name in ("RG3_J2KR.dcm", "693_UNCI.dcm", "vlut_04.dcm"):
        shutil.copyfile(source / name, tmp_path / name)
    whole = (source / "RG3_J2KR.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    results = {}
    for row in find_images([tmp_path]):
        try:
            results[row.path.name] = read_radiograph(row.path).shape
        except ImageError as error:
            results[row.path.name] = type(error)
    assert results == {
        "693_UNCI.dcm": NotARadiographError,
        "RG3_J2KR.dcm": (1760, 1760),
        "cut.dcm": ImageError,
        "vlut_04.dcm": (512, 512),
    }


def test_a_row_says_what_the_file_does_not(tmp_path):
    path = write_png(tmp_path / "film.png")
    row = ManifestRow(path, laterality="L", view="CC", spacing_mm=(0.2, 0.3))
    read = read_entry(row, (9.0, 9.0))
    assert (read.source.laterality, read.source.view) == ("L", "CC")
    assert read.spacing_mm == (0.2, 0.3)
    assert read_entry(ManifestRow(path), (9.0, 9.0)).spacing_mm == (9.0, 9.0)


# --- strangers in a folder -----------------------------------------------------------------------


def said_of(folder):
    """What comes of each file that is found: ok, skipped or failed, and the reason."""
    told = {}
    for row in find_images([folder]):
        try:
            read_entry(row)
            told[row.path.name] = ("ok", "")
        except NotARadiographError as error:
            told[row.path.name] = ("skipped", str(error))
        except ImageError as error:
            told[row.path.name] = ("failed", str(error))
    return told


def test_what_is_found_but_no_image_is_skipped_and_what_is_damaged_fails(tmp_path):
    for name in ("a.pkl", "run.err", "paper.tex", "LICENSE", "Makefile", "core.1a", "empty"):
        (tmp_path / name).write_bytes(b"" if name == "empty" else b"Doe^Jane")
    for name in ("cut.png", "cut.DCM", "IM000001", "1.2.840.113619.2", "photo.bmp", "none.tif"):
        (tmp_path / name).write_bytes(b"" if name == "none.tif" else b"Doe^Jane")
    (tmp_path / "magic").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "damaged").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    write_png(tmp_path / "nameless")
    write_dicom(tmp_path / "bare")
    (tmp_path / "bare").write_bytes((tmp_path / "bare").read_bytes()[132:])
    told = said_of(tmp_path)
    by_status = {
        status: {name for name, (found, _) in told.items() if found == status}
        for status in ("ok", "skipped", "failed")
    }
    assert by_status == {
        "ok": {"nameless", "bare"},
        "skipped": {"a.pkl", "run.err", "paper.tex", "LICENSE", "Makefile", "core.1a", "empty"},
        "failed": {
            *("cut.png", "cut.DCM", "IM000001", "1.2.840.113619.2", "photo.bmp", "none.tif"),
            *("magic", "damaged", "loop"),
        },
    }
    assert "neither the name nor the content" in told["a.pkl"][1]
    assert not any("Doe" in reason for _, reason in told.values())


def test_what_is_named_itself_fails(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"Doe^Jane")
    write_png(tmp_path / "1.png")
    table = tmp_path / "films.csv"
    table.write_text("path,patient_id,label\na.pkl,P1,negative\n1.png,P2,negative\n")
    for row in (*find_images([path]), find_images([table])[0]):
        with pytest.raises(ImageError, match="not an image patchad reads") as caught:
            read_entry(row)
        assert not isinstance(caught.value, NotARadiographError)


def test_strangers_can_be_left_out(tmp_path):
    write_png(tmp_path / "nameless")
    for name in ("a.pkl", "cut.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    found = [row.path.name for row in find_images([tmp_path], strangers=False)]
    assert found == ["cut.png", "gone", "nameless"]


@pytest.mark.real
def test_of_real_oddities_none_is_taken_for_a_stranger(real_data):
    """Without preamble, with damaged meta information …: all have the magic of what they are."""
    told = said_of(real_data / "pydicom-data")
    assert len(told) > 70
    assert [name for name, (_, reason) in told.items() if "neither the name" in reason] == []


def test_a_manifest_made_on_windows(tmp_path):
    write_png(tmp_path / "films" / "1.png")
    write_png(tmp_path / "odd\\name.png")
    table = tmp_path / "films.csv"
    lines = "films\\1.png,P1\n.\\films\\..\\films\\2.png,P2\nodd\\name.png,P3\nC:\\x\\4.png,P4\n"
    table.write_text("path,patient_id,birads\n" + lines.replace("\n", ",1\n"))
    rows = find_images([table])
    assert [row.path for row in rows] == [
        tmp_path / "films" / "1.png",
        tmp_path / "films" / "2.png",
        tmp_path / "odd\\name.png",  # there is one of just that name
        tmp_path / "C:" / "x" / "4.png",
    ]
    with pytest.raises(ImageError, match="relative to the folder of the manifest"):
        read_entry(rows[3])
