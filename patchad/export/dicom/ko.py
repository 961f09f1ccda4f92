"""The flagged images of a study as a Key Object Selection, which viewers offer as a short list."""

from collections.abc import Sequence
from dataclasses import dataclass

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom import Dataset
from pydicom.sr.codedict import codes

from patchad.export.dicom.header import reference, text_of
from patchad.export.dicom.kind import Kind
from patchad.export.dicom.object import Maker
from patchad.export.dicom.sr import observer


@dataclass(frozen=True, eq=False)
class Selection:
    """The headers of the selected images, all of one study, and the model that selected them."""

    headers: Sequence[Dataset]
    maker: Maker


def key_objects(selected: Selection) -> Dataset:
    """A selection "For Research" of the images."""
    headers, maker = selected.headers, selected.maker
    sources = sorted(map(reference, headers), key=lambda source: str(source.SOPInstanceUID))
    study = text_of(headers[0], "StudyInstanceUID")
    content = KeyObjectSelection(
        document_title=codes.DCM.ForResearch,
        referenced_objects=sources,
        observer_device_context=observer(maker),
        description="Images flagged by patchad. Research use only, unverified.",
    )
    document: Dataset = KeyObjectSelectionDocument(
        evidence=sources,
        content=content,
        sop_instance_uid=maker.uid(study, "ko", *(source.SOPInstanceUID for source in sources)),
        instance_number=1,
        **maker.identity(KIND, study),
    )
    for item in document.ContentSequence:
        if item.ValueType == "IMAGE" and "ConceptNameCodeSequence" in item:
            del item.ConceptNameCodeSequence  # TID 2010 gives the references no name
    return document


KIND = Kind("ko", "flagged images", 9406, "run", key_objects)
