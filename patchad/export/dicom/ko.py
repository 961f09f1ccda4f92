"""The flagged images of a study as a Key Object Selection, which viewers offer as a short list."""

from collections.abc import Sequence

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom import Dataset
from pydicom.sr.codedict import codes

from patchad.export.dicom.object import Maker, reference, text_of
from patchad.export.dicom.sr import observer


def key_objects(headers: Sequence[Dataset], maker: Maker) -> Dataset:
    """A selection "For Research" of the images, all of one study, whose headers are given."""
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
        **maker.identity("ko", "flagged images", study),
    )
    for item in document.ContentSequence:
        if item.ValueType == "IMAGE" and "ConceptNameCodeSequence" in item:
            del item.ConceptNameCodeSequence  # TID 2010 gives the references no name
    return document
