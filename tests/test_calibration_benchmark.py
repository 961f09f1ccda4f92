import runpy
from pathlib import Path

import numpy as np
import pytest

from patchad.model.calibration import conformal_threshold

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "calibration.py"))
Setting, simulate, WAYS = (BENCHMARK[name] for name in ("Setting", "simulate", "WAYS"))


@pytest.fixture(scope="module")
def lines() -> dict[str, object]:
    return {line.name: line for line in simulate(Setting(60, 4, 0.8), 40, 0)}


def test_counting_images_breaks_the_promise_and_counting_patients_keeps_it(lines) -> None:
    images, patients = lines[WAYS[0]], lines[WAYS[1]]
    assert images.promised == 0.05
    assert patients.promised == pytest.approx(1 / 7)  # 6 patients held out
    assert images.patients.mean() > 2 * images.promised
    # over 40 trainings the mean is known to some hundredths
    error = patients.patients.std() / np.sqrt(len(patients.patients))
    assert patients.patients.mean() < patients.promised + 2 * error


def test_folds_keep_near_the_promise_and_vary_less(lines) -> None:
    folds, held_out, seen = lines[WAYS[3]], lines[WAYS[1]], lines[WAYS[2]]
    assert folds.promised == 0.05
    assert folds.patients.mean() < 0.05 < seen.patients.mean()
    assert folds.patients.std() < held_out.patients.std() / 2


def test_the_toy_detector_learns_and_the_cli_prints_a_table(capsys) -> None:
    rng = np.random.default_rng(0)
    setting = Setting(40, 2, 0.5)
    known = BENCHMARK["draw"](rng, setting, 40)
    new = BENCHMARK["draw"](rng, setting, 400)
    score = BENCHMARK["learn"](known)
    assert score(known).mean() < score(new).mean()
    over = score(new).max(1) > conformal_threshold(sorted(score(known).max(1)), 0.05)
    assert over.mean() > 0.05
    BENCHMARK["main"](["--patients", "20", "--trials", "3"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("20 patients with 2 films")
    assert [line.split(" | ")[0] for line in printed[4:]] == [f"| {name}" for name in WAYS]
