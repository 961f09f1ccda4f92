"""Bergmann et al.'s table on MVTec AD: per-region overlap in 15 categories.

P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: Uninformed students. CVPR 2020,
https://arxiv.org/abs/1911.02357. Data: MVTec AD, CVPR 2019 (CC BY-NC-SA 4.0).

    python pipelines/mvtec.py DATA --categories carpet,zipper --out studies/mvtec

DATA holds a folder a category: ``<category>/train/good``, ``test/good``, ``test/<defect>`` and
``ground_truth/<defect>/<number>_mask.png``. Pictures and masks are resized to 256 × 256, as
published, and made grey, which is not: patchad's methods see one channel.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from PIL import Image
from published import (
    Asked,
    Configs,
    Limit,
    OnDevice,
    Out,
    Quick,
    Replication,
    Resume,
    Seeds,
    Sets,
    refused,
    replicate,
)
from published_data import Part, limit_rows, write_part
from published_tables import PublishedRow

from patchad.errors import RequestError

SIDE = 256
CATEGORIES = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill",
    "screw", "tile", "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
# Training, good test and defective test pictures, over all categories, as distributed.
COUNTS = {"training, normal": 3629, "test, normal": 467, "test, abnormal": 1258}
_PRO = (
    ("Students, field 17", "students_17", 0.866),
    ("Students, field 33", "students_33", 0.900),
    ("Students, field 65", "students_65", 0.857),
    ("Students, three fields", "students", 0.914),
    ("1-NN", "nearest_neighbour", 0.640),
    ("OC-SVM", "oc_svm", 0.479),
    ("k-means", "k_means", 0.423),
    ("l2-AE", "l2_ae", 0.790),
    ("VAE", "vae", 0.639),
    ("SSIM-AE", "ssim_ae", 0.694),
    ("AnoGAN", "anogan", 0.443),
    ("CNN dictionary", "cnn_dictionary", 0.515),
)
PUBLISHED = tuple(
    PublishedRow(label, config, {"PRO": value}, "Bergmann et al. 2020")
    for label, config, value in _PRO
)
_NOTES = (
    "Grey pictures: published methods saw three channels, and teachers and dictionary were trained "
    "on ImageNet; ours learn from the category's own normal pictures.",
    "Published figures are means over the 15 categories; the limit of the false positive rate, "
    "0.3, is that of later code. The row of field 33 averages 0.905 over its categories, 0.900 is "
    "the printed mean.",
    "A tenth of the training pictures calibrates the card's threshold and isn't trained on.",
)


def find_rows(data: Path, category: str) -> pd.DataFrame:
    """The pictures of a category: path, label, split, kind, and the mask of a defect.

    Raises:
        RequestError: a folder or a mask is missing.
    """
    folder = data / category
    rows = []
    for split, kinds in (("train", ["good"]), ("test", sorted(_folders(folder / "test")))):
        for kind in kinds:
            files = sorted((folder / split / kind).glob("*.png"))
            if not files:
                raise RequestError(f"{folder / split / kind} holds no PNG files: give MVTec AD")
            for file in files:
                mask = folder / "ground_truth" / kind / f"{file.stem}_mask.png"
                if kind != "good" and not mask.is_file():
                    raise RequestError(f"{mask} is missing, the mask of {file}")
                rows.append(
                    {
                        "path": file.resolve(),
                        "patient_id": f"{category}-{split}-{kind}-{file.stem}",
                        "label": "negative" if kind == "good" else "positive",
                        "split": split,
                        "kind": kind,
                        "mask": "" if kind == "good" else mask.resolve(),
                    }
                )
    return pd.DataFrame(rows)


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        raise RequestError(f"{path} is missing: give the folder that holds the categories")
    return [own.name for own in path.iterdir() if own.is_dir()]


def prepare(
    data: Path, categories: tuple[str, ...], seed: int, folder: Path, *, pictures: Path,
    limit: int = 0,
) -> list[Part]:  # fmt: skip
    """Write pictures and tables of each category, a part each."""
    parts = []
    for category in categories:
        rows = limit_rows(find_rows(data, category), limit, seed)
        own = pictures / category
        places = [_resized(path, own / f"{name}.png") for path, name in
                  zip(rows["path"], rows["patient_id"], strict=True)]  # fmt: skip
        rows = rows.assign(path=places)
        ill = rows[rows["label"] == "positive"]
        masks = [_resized(mask, own / f"{name}-mask.png", mask=True) for mask, name in
                 zip(ill["mask"], ill["patient_id"], strict=True)]  # fmt: skip
        regions = ill[["path", "kind"]].assign(mask=masks)
        parts.append(
            write_part(rows.drop(columns="mask"), folder / category, name=category, regions=regions)
        )
    if not limit and {*categories} == {*CATEGORIES}:
        total = pd.DataFrame([part.facts for part in parts]).sum()
        differ = [f"{name}: {total[name]:.0f} here, {wanted} as distributed." for name, wanted in
                  COUNTS.items() if total[name] != wanted]  # fmt: skip
        parts[0] = replace(parts[0], notes=(*parts[0].notes, *differ))
    return parts


def _resized(path: Path, copy: Path, *, mask: bool = False) -> str:
    """A grey copy of 256 × 256; of a mask made smaller, a pixel is lesion if any part is."""
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            with Image.open(path) as picture:
                grey = picture.convert("L")
        except OSError as error:
            raise RequestError(f"{path} can't be read as a picture: {error}") from None
        if mask:
            whole = grey.point(lambda value: 255 * (value > 0))
            small = whole.resize((SIDE, SIDE), Image.Resampling.BOX)
            small = Image.fromarray((255 * (np.asarray(small) > 0)).astype(np.uint8))
        else:
            small = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        small.save(copy)
    return str(copy.resolve())


def main(
    data: Annotated[Path, typer.Argument(help="The folder that holds the categories.")],
    categories: Annotated[str, typer.Option(help="a,b; all that are there by default.")] = "",
    out: Out = Path("studies/mvtec"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on good pictures of each category, and outline defects."""
    with refused("mvtec.py"):
        there = [name for name in CATEGORIES if (data / name).is_dir()]
        chosen = tuple(name.strip() for name in categories.split(",") if name.strip()) or (*there,)
        unknown = [name for name in chosen if name not in there]
        if unknown or not chosen:
            raise RequestError(
                f"{data} holds {', '.join(there) or 'no category of MVTec AD'}"
                + (f", not {unknown[0]}" if unknown else "")
            )
        study = Replication(
            title="MVTec AD" + (", quick" if quick else ""),
            use="picture",
            prepare=lambda seed, folder: prepare(
                data, chosen, seed, folder, pictures=out / "pictures", limit=limit
            ),
            published=PUBLISHED,
            notes=(*_NOTES, f"Categories: {', '.join(chosen)}."),
            average=True,
        )
        asked = Asked(out, configs, seeds, quick, limit, resume, device, tuple(sets))
        print(replicate(study, asked))


if __name__ == "__main__":
    typer.run(main)
