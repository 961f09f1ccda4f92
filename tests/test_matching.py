from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.evaluation.matching import Named, match

OLD, NEW = Path("/nowhere/old"), Path("/nowhere/new")
UID = "sop_instance_uid"


def named(root, *paths, **more):
    return [Named(root / path, **more) for path in paths]


def films(found, rows, images):
    """The matched pairs as (path of the row, path of the image)."""
    return {(str(rows[r].path), str(images[i].path)) for r, i in found.image.items()}


def test_by_path_uid_and_moved_folder():
    rows = [Named(OLD / "P1/a", "1.1"), Named(OLD / "P2/a", "1.2"), Named(OLD / "P3/a")]
    images = [Named(NEW / "P3/a"), Named(NEW / "x", "1.2"), Named(NEW / "P1/a", "1.1")]
    found = match(rows, images)
    assert found.image == {0: 2, 1: 1, 2: 0}
    assert found.how == {0: "sop_instance_uid", 1: "sop_instance_uid", 2: "moved_path"}
    assert found.counts == {"path": 0, "sop_instance_uid": 2, "moved_path": 1}
    assert found.move == (OLD, NEW)


def test_no_end_of_a_path_counts_where_any_path_is_known():
    rows = named(OLD, "P1/a", "P2/b")
    found = match(rows, [Named(OLD / "P1/a"), Named(NEW / "P2/b")])
    assert found.image == {0: 0}
    assert found.move is None


def test_a_film_that_exists_is_not_taken_for_another(tmp_path):
    (tmp_path / "a.dcm").touch()
    rows = named(tmp_path, "a.dcm", "b.dcm")
    found = match(rows, named(NEW, "a.dcm", "b.dcm"))
    assert found.image == {1: 1}


def test_a_moved_study_matches_its_own_patients():
    rows, images = named(OLD, "P8/1", "P9/1"), named(NEW, "P9/1", "P8/1")
    assert match(rows, images).image == {0: 1, 1: 0}
    assert match(rows[:1], images).image == {0: 1}
    assert match(rows[:1], images[:1]).image == {0: 0}  # one film, and one that could be it
    assert match([Named(OLD / "P8/1", "", "P8")], images[:1]).image == {}
    assert match([Named(OLD / "P8/1", "1.1")], [Named(NEW / "P9/1", "1.2")]).image == {}


def test_what_the_move_would_put_elsewhere_is_not_matched():
    # P9/2 moved from old to new, so P8/1 would be in new/P8.
    found = match(named(OLD, "P8/1", "P9/2"), named(NEW, "P9/1", "P9/2"))
    assert found.image == {1: 1}
    assert found.clashes == {}


def test_two_moves_are_ambiguous():
    found = match(named(OLD, "P8/1", "P9/2"), named(NEW, "1", "2"))
    assert found.image == {}
    assert found.clashes == {0: "moved_path", 1: "moved_path"}


def test_two_roots_with_the_same_tree_are_ambiguous():
    found = match(named(OLD, "P1/a", "P2/a"), named(NEW, "r1/P1/a", "r2/P1/a", "r1/P2/a"))
    assert found.image == {1: 2}
    assert found.clashes == {0: "moved_path"}
    told_apart = match(named(OLD, "r1/P1/a"), named(NEW, "r1/P1/a", "r2/P1/a"))
    assert told_apart.image == {0: 0}


def test_a_uid_that_two_share_is_ambiguous():
    rows = named(OLD, "a", "b", uid="1.1")
    assert match(rows, named(NEW, "c", uid="1.1")).clashes == {0: UID, 1: UID}
    assert match(rows[:1], named(NEW, "c", "d", uid="1.1")).clashes == {0: UID}


def test_a_path_with_another_uid_is_contradicted():
    found = match([Named(OLD / "a", "1.1")], [Named(OLD / "a", "1.2")])
    assert found.image == {}
    assert found.contradicted == {0}


def test_links_and_dots_lead_to_the_same_film(tmp_path):
    film = tmp_path / "real" / "a.dcm"
    film.parent.mkdir()
    film.touch()
    link = tmp_path / "link"
    link.symlink_to(film.parent)
    there = [Named(film)]
    for row in (link / "a.dcm", tmp_path / "real" / ".." / "real" / "a.dcm"):
        assert match([Named(row)], there).how == {0: "path"}
    twice = match([Named(link / "a.dcm"), Named(film)], there)
    assert twice.image == {}
    assert twice.clashes == {0: "path", 1: "path"}


def test_a_link_that_leads_to_itself_is_no_fault(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert match([Named(loop)], [Named(NEW / "loop")]).image == {}


def test_case_counts():
    assert match(named(OLD, "P1/A.dcm"), named(NEW, "P1/a.dcm")).image == {}


FILMS = st.lists(
    st.tuples(st.sampled_from(["P1", "P2", "P3"]), st.sampled_from("abc")), unique=True, max_size=9
)


@given(FILMS, FILMS)
def test_never_another_patients_film(truth, screened):
    rows = [Named(OLD / patient / film, "", patient) for patient, film in truth]
    images = [Named(NEW / patient / film) for patient, film in screened]
    found = match(rows, images)
    assert all(truth[row] == screened[image] for row, image in found.image.items())
    if {film for film in truth if film in screened}:
        assert {truth[row] for row in found.image} == {*truth} & {*screened}


TREES = st.lists(
    st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), unique=True, max_size=6
)


@given(TREES, TREES)
def test_the_ends_of_paths_against_their_definition(truth, screened):
    rows, images = named(OLD, *truth), named(NEW, *screened)
    found = match(rows, images)

    def common(row, image):
        one, other = row.path.parts[::-1], image.path.parts[::-1]
        return next(k for k in range(99) if one[k : k + 1] != other[k : k + 1])

    lengths = [[common(row, image) for image in images] for row in rows]
    only = {}
    for r, row in enumerate(lengths):
        for i, length in enumerate(row):
            rivals = [*row, *(other[i] for other in lengths)]
            if length and rivals.count(max(rivals)) == 2 and length == max(rivals):
                only[r, i] = tuple(one.path.parts[:-length] for one in (rows[r], images[i]))
    moves = {
        (old, new)
        for old, new in only.values()
        if all((a[: len(old)], b[: len(new)]) == (old, new) for a, b in only.values())
    }
    assert len(moves) <= 1
    expected = {pair for pair, move in only.items() if move in moves}
    assert {*found.image.items()} == expected
    if only and not moves:
        assert {row for row, _ in only} <= {*found.clashes}
    assert not {*found.image} & {*found.clashes}


@pytest.mark.parametrize("swap", [False, True])
def test_order_does_not_matter(swap):
    rows, images = named(OLD, "P1/a", "P2/a", "P2/b"), named(NEW, "P1/a", "P2/a", "P2/b", "P3/c")
    found = match(rows[::-1] if swap else rows, images)
    assert films(found, rows[::-1] if swap else rows, images) == {
        (f"{OLD}/{film}", f"{NEW}/{film}") for film in ("P1/a", "P2/a", "P2/b")
    }
