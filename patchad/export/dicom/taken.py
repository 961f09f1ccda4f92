"""The elements that an object copies from its source's header: only listed ones, each legal.

Nothing else is copied: no private element, and from a sequence's items only elements that are
listed here, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

from pydicom import Dataset
from pydicom.datadict import dictionary_description, dictionary_VR
from pydicom.tag import Tag

from patchad.core.image import Voi
from patchad.export.dicom.tones import take_tones
from patchad.export.dicom.value import UNICODE, CharacterSet, character_set_of, legal_value
from patchad.read.dicom_header import spread_frame
from patchad.read.quiet import quiet
from patchad.version import __version__

# The modules Patient, General Study and Patient Study of PS3.3, for people. Elements for animals
# depend on each other by many conditions, and are left out.
# fmt: off
OF_THE_PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex",
    "OtherPatientIDsSequence", "OtherPatientNames", "EthnicGroup", "PatientComments",
    "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "QualityControlSubject",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
)
OF_THE_STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "ReferringPhysicianName", "StudyDescription",
    "ProcedureCodeSequence", "PhysiciansOfRecord", "ReferencedStudySequence",
    "PatientAge", "PatientSize", "PatientWeight", "AdmissionID", "MedicalAlerts", "Allergies",
    "PregnancyStatus", "SmokingStatus", "Occupation", "AdditionalPatientHistory",
)
OF_THE_EQUIPMENT = (
    "Manufacturer", "InstitutionName", "StationName", "ManufacturerModelName",
    "DeviceSerialNumber", "SoftwareVersions",
)
OF_THE_CONTENT = ("ContentDate", "ContentTime")
# Elements that identify nobody: UIDs, numbers and terms of the standard. Only these are copied
# without the patient.
OF_THE_IMAGE = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber",
    "NumberOfFrames", "Rows", "Columns", "PatientOrientation", "BodyPartExamined",
    "PhotometricInterpretation", "BurnedInAnnotation", "VOILUTFunction",
)
# Tones are only numbers and terms of the standard; see :mod:`.tones`.
TONES = (
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType", "VOILUTSequence",
    "WindowCenter", "WindowWidth",
)


class Item(NamedTuple):
    """The allowed and the required elements of a sequence's items."""

    allowed: tuple[str, ...]
    needed: tuple[str, ...]


_CODE = Item(
    ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"),
    ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"),
)
_ENTITY = ("UniversalEntityID", "UniversalEntityIDType")
_STUDY = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
ITEMS: Mapping[str, Item] = {
    "IssuerOfPatientIDQualifiersSequence": Item(_ENTITY, _ENTITY),
    "OtherPatientIDsSequence": Item(
        ("PatientID", "IssuerOfPatientID", "TypeOfPatientID",
         "IssuerOfPatientIDQualifiersSequence"),
        ("PatientID", "TypeOfPatientID"),
    ),
    "DeidentificationMethodCodeSequence": _CODE,
    "IssuerOfAccessionNumberSequence": Item(_ENTITY, _ENTITY),
    "ProcedureCodeSequence": _CODE,
    "ReferencedStudySequence": Item(_STUDY, _STUDY),
}
_BODY_PARTS = (
    "BREAST", "CHEST", "ABDOMEN", "ABDOMENPELVIS", "PELVIS", "HEAD", "SKULL", "NECK", "SPINE",
    "CSPINE", "TSPINE", "LSPINE", "SSPINE", "HEART", "WHOLEBODY", "AXILLA", "SHOULDER", "CLAVICLE",
    "SCAPULA", "STERNUM", "RIB", "ARM", "ELBOW", "FOREARM", "WRIST", "HAND", "FINGER", "THUMB",
    "HIP", "LEG", "KNEE", "PATELLA", "ANKLE", "FOOT", "TOE", "CALCANEUS", "EXTREMITY", "JAW",
    "COCCYX", "CHESTABDOMEN", "LUNG",
)
# fmt: on


def _as_they_are(*terms: str) -> dict[str, str]:
    return {term: term for term in terms}


_YES_NO = _as_they_are("YES", "NO")
_AXES = {"A": 0, "P": 0, "R": 1, "L": 1, "H": 2, "F": 2}
# Elements with enumerated values, and how these are also written.
_TERMS: Mapping[str, Mapping[str, str]] = {
    "PatientSex": {**_as_they_are(*"MFO"), "MALE": "M", "FEMALE": "F", "OTHER": "O"},
    "TypeOfPatientID": _as_they_are("TEXT", "RFID", "BARCODE"),
    "PatientIdentityRemoved": _YES_NO,
    "QualityControlSubject": _YES_NO,
    "BurnedInAnnotation": _YES_NO,
    "SmokingStatus": {**_YES_NO, "UNKNOWN": "UNKNOWN"},
    "PregnancyStatus": _as_they_are(*"1234"),
    "ResponsiblePersonRole": _as_they_are(
        *("OWNER", "PARENT", "CHILD", "SPOUSE", "SIBLING", "RELATIVE", "GUARDIAN", "CUSTODIAN"),
        *("AGENT", "INVESTIGATOR", "VETERINARIAN"),
    ),
    "UniversalEntityIDType": _as_they_are("DNS", "EUI64", "ISO", "URI", "UUID", "X400", "X500"),
    "PhotometricInterpretation": _as_they_are("MONOCHROME1", "MONOCHROME2"),
    "VOILUTFunction": _as_they_are("LINEAR", "LINEAR_EXACT", "SIGMOID"),
    "BodyPartExamined": _as_they_are(*_BODY_PARTS),
    "PatientOrientation": _as_they_are(
        *(
            "".join(letters)
            for count in (1, 2, 3)
            for letters in permutations(_AXES, count)
            if len({_AXES[letter] for letter in letters}) == count
        )
    ),
}


@dataclass(frozen=True)
class Taken:
    """The copied elements, and notes on the others, without their values.

    ``folded``: the VOI LUT maps stored values to grey directly, and is the only tone element.
    """

    header: Dataset
    notes: tuple[str, ...] = ()
    folded: bool = False


@dataclass
class _Faults:
    """The names of elements that were not legal."""

    repaired: dict[str, None] = field(default_factory=dict)
    left_out: dict[str, None] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        done = (("repaired", self.repaired), ("left out, not legal", self.left_out))
        return tuple(f"DICOM objects: {', '.join(names)} {what}" for what, names in done if names)


def take_over(header: Dataset, *, voi: Voi = "auto", deidentify: bool = False) -> Taken:
    """The elements of a header that objects may hold, as a data set of its own.

    Its tones are those of single images: lookup tables have 16 bits, and there is one window.
    ``voi`` is the grey scaling that was used.
    ``deidentify`` copies only UIDs, numbers and terms of the standard: nothing that could identify
    a patient, a place or a time, and no free text.
    """
    faults = _Faults()
    with quiet():
        spread_frame(header, 1)  # the tones of an enhanced object of one frame
        charset = character_set_of(header)
        keywords = dict.fromkeys(OF_THE_IMAGE)
        if not deidentify:
            named = (*OF_THE_PATIENT, *OF_THE_STUDY, *OF_THE_EQUIPMENT, *OF_THE_CONTENT)
            keywords |= dict.fromkeys(named)
        taken = _pick(header, (*keywords,), charset, faults)
        tones = take_tones(header, taken, voi)
        faults.repaired |= dict.fromkeys(map(_name, tones.repaired))
        faults.left_out |= dict.fromkeys(map(_name, tones.left_out))
        if deidentify:
            taken.PatientIdentityRemoved = "YES"
            taken.DeidentificationMethod = f"patchad {__version__}: not copied from the source"
            return Taken(taken, faults.notes, tones.folded)
        _complete(taken, faults)
        if charset.guessed:
            faults.repaired[_name("SpecificCharacterSet")] = None
        terms = _written_in(taken, charset).terms
        if any(terms):
            taken.SpecificCharacterSet = [*terms]
        return Taken(taken, faults.notes, tones.folded)


def _name(keyword: str) -> str:
    return dictionary_description(keyword)


def _pick(
    header: Dataset, keywords: Sequence[str], charset: CharacterSet, faults: _Faults
) -> Dataset:
    picked = Dataset()
    for keyword in keywords:
        if Tag(keyword) not in header:
            continue
        if keyword in ITEMS:
            items = _items(header, keyword, charset, faults)
            if items:
                setattr(picked, keyword, items)
            continue
        value = legal_value(header, keyword, charset, _TERMS.get(keyword))
        if value is None:
            faults.left_out[_name(keyword)] = None
            continue
        if value.repaired:
            faults.repaired[_name(keyword)] = None
        picked.add_new(Tag(keyword), dictionary_VR(keyword), value.content)
    return picked


def _items(header: Dataset, keyword: str, charset: CharacterSet, faults: _Faults) -> list[Dataset]:
    """The items that have all required elements, reduced to the allowed ones."""
    try:
        stored = list(header[keyword].value or ())
        whole = all(isinstance(item, Dataset) for item in stored)
    except Exception:  # any error that a damaged sequence causes in pydicom
        whole = False
    if not whole:
        faults.left_out[_name(keyword)] = None
        return []
    rule, kept = ITEMS[keyword], []
    for item in stored:
        picked = _pick(item, rule.allowed, charset, faults)
        if all(_holds(picked, needed) for needed in rule.needed):
            kept.append(picked)
        else:
            faults.left_out[_name(keyword)] = None
    return kept


def _holds(taken: Dataset, keyword: str) -> bool:
    """Whether an element is present and not empty."""
    return keyword in taken and taken[keyword].VM > 0 and taken[keyword].value not in ("", None)


def _complete(taken: Dataset, faults: _Faults) -> None:
    """Remove elements that are not allowed alone; add required ones as empty (PS3.3 C.7)."""

    def leave_out(*keywords: str) -> None:
        for keyword in keywords:
            if keyword in taken:
                del taken[keyword]
                faults.left_out[_name(keyword)] = None

    trial = [keyword for keyword in OF_THE_PATIENT if keyword.startswith("ClinicalTrial")]
    if any(keyword in taken for keyword in trial):
        named = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID")
        subject = ("ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID")
        if all(_holds(taken, one) for one in named) and any(_holds(taken, one) for one in subject):
            for keyword in subject:
                if keyword in taken and not _holds(taken, keyword):
                    del taken[keyword]
            _empty_if_missing(
                taken, "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName"
            )
        else:
            leave_out(*trial)
    person = ("ResponsiblePerson", "ResponsiblePersonRole")
    if not all(_holds(taken, keyword) for keyword in person):
        leave_out(*person)
    if taken.get("PatientIdentityRemoved") == "YES" and not (
        _holds(taken, "DeidentificationMethod")
        or _holds(taken, "DeidentificationMethodCodeSequence")
    ):
        taken.DeidentificationMethod = "unknown, not given in the source"
    for keyword in ("PatientIdentityRemoved", "TypeOfPatientID", "DeidentificationMethod"):
        if keyword in taken and not _holds(taken, keyword):
            del taken[keyword]


def _empty_if_missing(taken: Dataset, *keywords: str) -> None:
    for keyword in keywords:
        if keyword not in taken:
            setattr(taken, keyword, None)


def _written_in(taken: Dataset, charset: CharacterSet) -> CharacterSet:
    """The header's character set if all copied text can be written in it, else UTF-8."""
    texts = [
        str(element.value)
        for element in taken.iterall()
        if element.VR in ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
    ]
    several = charset.terms[1:] and not all(
        term.startswith("ISO 2022 ") for term in charset.terms if term
    )
    fits = not several and all(charset.encodes(text) for text in texts)
    return charset if fits else UNICODE
