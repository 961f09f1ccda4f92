import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "rarity.py"


def test_stated_rarity_is_the_true_one_and_bounds_hold() -> None:
    simulate = runpy.run_path(str(SCRIPT))["simulate"]
    rows = list(simulate(40, 0, sizes=((40, 4),)))
    assert {(row.alike, row.stated) for row in rows} == {
        (alike, stated)
        for alike in ("not alike", "alike", "very alike")
        for stated in (0.5, 0.2, 0.1, 0.05, 0.02)
    }
    for row in rows:
        assert 0.6 < row.true / row.stated < 1.5  # on average; one calibration may be far off
        assert row.low < row.stated < row.high < 3 * row.stated
        assert row.bound > row.stated
        assert row.broken <= 0.2  # of 40 trials 5 % are 2, and 8 are hardly chance
