"""Whether a run's model has seen the images that it is judged on."""

from patchad.evaluation.truth import Truth
from patchad.model.trained_on import among
from patchad.store.run import Run


def seen_notes(run: Run, judged: Truth) -> list[str]:
    """A note on judged images that the model was trained or calibrated on."""
    card, digests = run.settings["card"], {row.id: row.digest for row in run.rows}
    known = [digests[case.image_id] for case in judged.cases]
    notes = []
    for packed, done in (
        (card.get("data", {}).get("trained_on", ""), "trained on"),
        (card["calibration"].get("made_on", ""), "calibrated on"),
    ):
        count = sum(among(packed, known))
        if count:
            notes.append(
                f"The model was {done} {count} of the {len(known)} judged images (the same "
                "pixels), so these figures are too good: judge it on others."
            )
    return notes
