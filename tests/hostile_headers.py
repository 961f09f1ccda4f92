"""Headers that are legal in every element that objects take over, and illegal in one of them."""

from collections.abc import Iterator

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from patchad.export.dicom import taken as dicom_taken
from patchad.export.dicom.taken import (
    ITEMS,
    OF_THE_CONTENT,
    OF_THE_EQUIPMENT,
    OF_THE_PATIENT,
    OF_THE_STUDY,
    Item,
)

NAMED = tuple(
    keyword
    for keyword in (*OF_THE_PATIENT, *OF_THE_STUDY, *OF_THE_EQUIPMENT, *OF_THE_CONTENT)
    if keyword != "StudyInstanceUID"  # without it there is no object
)
LEGAL = {
    **{"AS": "061Y", "CS": "YES", "DA": "20000102", "DS": "61.5", "LO": "text", "LT": "long text"},
    **{"PN": "Doe^Jane", "SH": "short", "TM": "120000", "UI": "1.2.3", "US": 1, "UT": "text"},
}
ILLEGAL = {
    **{"AS": "12 parsecs", "DA": "2023/13/45", "TM": "noon", "CS": "no such term!", "DS": "heavy"},
    **{"LO": "x" * 65, "SH": "x" * 17, "PN": "x" * 65, "LT": "x" * 10241, "UI": "1.2.x"},
    **{"US": "\1", "UT": "\x1bx"},
}


def legal(keyword: str) -> object:
    """A value that the element may hold."""
    vr, terms = dictionary_VR(keyword), dicom_taken._TERMS.get(keyword)
    value = LEGAL[vr] if terms is None else next(iter(terms))
    return int(str(value)) if vr == "US" else value


def item(rule: Item) -> Dataset:
    """An item of a sequence with all that it may hold."""
    made = Dataset()
    for keyword in rule.allowed:
        add_legal(made, keyword)
    return made


def add_legal(header: Dataset, keyword: str) -> None:
    if keyword in ITEMS:
        setattr(header, keyword, [item(ITEMS[keyword])])
    else:
        header.add_new(Tag(keyword), dictionary_VR(keyword), legal(keyword))


def complete(film: Dataset) -> Dataset:
    """The film with every element that names somebody, all of them legal.

    Implicit VR, so that an element can be written with another one's value.
    """
    film.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    for keyword in NAMED:
        add_legal(film, keyword)
    return film


def spoilt(header: Dataset, keyword: str) -> Iterator[tuple[str, Dataset]]:
    """Copies of a complete header in which this element is missing, empty or illegal.

    Each with the keyword of what is illegal, empty if nothing is.
    """

    def changed() -> Dataset:
        copy = pydicom.Dataset(header)
        copy.file_meta = header.file_meta
        return copy

    missing = changed()
    del missing[keyword]
    yield "", missing
    if keyword in ITEMS:
        for within in ITEMS[keyword].allowed:
            broken, part = changed(), item(ITEMS[keyword])
            if within in ITEMS:
                setattr(part, within, [Dataset()])
            else:
                part.add_new(Tag(within), "UT", ILLEGAL[dictionary_VR(within)])
            setattr(broken, keyword, [part])
            yield within, broken
        hollow = changed()
        setattr(hollow, keyword, [Dataset()])
        yield keyword, hollow
    empty, broken = changed(), changed()
    empty.add_new(Tag(keyword), dictionary_VR(keyword), None)
    yield "", empty
    broken.add_new(Tag(keyword), "UT", ILLEGAL.get(dictionary_VR(keyword), "no sequence"))
    yield keyword, broken
