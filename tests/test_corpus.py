"""Every file of tests/corpus is read as its README says, or refused by an `InputError` that names it."""

from __future__ import annotations

import faulthandler
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from secondgram.cohort.formats import read_cohort
from secondgram.errors import InputError

CORPUS = Path(__file__).parent / "corpus"
ROWS = {
    name: (contents, outcome)
    for name, contents, outcome in re.findall(
        r"^\| `([^`]+)` \| (.+) \| (.+) \|$", (CORPUS / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
}
# Of a file that takes a moment.
SECONDS = 300


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def test_every_file_is_described_and_small() -> None:
    files = {path.name: path.stat().st_size for path in CORPUS.iterdir() if path.name != "README.md"}
    assert set(files) == set(ROWS)
    assert len(files) > 100
    assert max(files.values()) < 2048


@pytest.mark.parametrize("name", ROWS)
def test_a_file_is_read_right_or_refused(name: str) -> None:
    outcome = ROWS[name][1]
    if outcome.endswith("is no number"):
        # Nobody asked for the column: it is left out, and a note names the cell.
        cohort = read_cohort(CORPUS / name)
        assert cohort.features == ("vol_b",)
        assert any("left out: vol_a (row" in note and "which is no number" in note for note in cohort.notes)
        with pytest.raises(InputError, match=re.escape(outcome)):
            read_cohort(CORPUS / name, features=["vol_a", "vol_b"])
        return
    if not outcome.startswith("reads "):
        with pytest.raises(InputError) as raised:
            read_cohort(CORPUS / name)
        assert str(raised.value).startswith(str(CORPUS / name))
        assert outcome in str(raised.value)
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 700
        return
    cohort = read_cohort(CORPUS / name)
    value = re.fullmatch(r"reads (.+) of (.+) at (.+) as (.+)", outcome)
    if value:
        feature, person, visit, number = value.groups()
        place = cohort.ids.tolist().index(person), cohort.visit_labels.index(visit), cohort.features.index(feature)
        assert cohort.visits[place] == float(number)
        return
    names = outcome.partition(" with features ")[2] or "vol_a and vol_b"
    assert cohort.features == tuple(names.split(" and "))
    assert (cohort.ids.tolist(), cohort.visit_labels) == (["0012", "7"], ("0", "1"))
    np.testing.assert_array_equal(cohort.visits, [[[1.5, 2], [1.25, np.nan]], [[3, 4.5], [np.nan, np.nan]]])
    if name.endswith(".csv"):
        assert np.isnan(cohort.gap).all() or cohort.gap[0] == 2.5
