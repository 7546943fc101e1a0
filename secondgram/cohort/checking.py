"""Findings in the values of a whole cohort, with subject and visit, and with rows where its table is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from .assembly import Places
from .cells import Sheet, no_measurement
from .feature_ranges import FeatureRanges
from .layouts import Field
from .measured import Measured
from .roles import Roles
from .value_checks import FEWEST, Suspect, check_column, is_code, suspicious
from .value_findings import REFUSE, Finding, refuse


def find_values(cohort: Measured) -> list[Finding]:
    """Findings in features, covariates and outcomes; see docs/cohorts.md#values-that-cannot-be-right.

    Outcomes condition nothing: what is found there is never refused.
    """
    found = []
    people = len(cohort.ids)
    slots = len(cohort.visit_labels)
    person = np.repeat(np.arange(people), slots)
    for place in np.flatnonzero(suspicious(cohort.visits)) if people else ():
        values = cohort.visits[:, :, place].ravel()
        for suspect in check_column(values, person, cohort.features[place]):
            cell = int(suspect.cells[0])
            where = str(cohort.ids[cell // slots]), cohort.visit_labels[cell % slots]
            found.append(_finding(suspect, cohort.features[place], *where))
    for table, role in ((cohort.covariate_table, "covariate"), (cohort.outcomes, "outcome")):
        for name, column in table.items():
            suspects = _levels(column) if isinstance(column.dtype, pd.CategoricalDtype) else _numbers(column, str(name))
            for suspect in suspects:
                finding = _finding(suspect, str(name), str(cohort.ids[suspect.cells[0]]), None)
                found.append(replace(finding, refused=finding.refused and role == "covariate"))
    return found


def _finding(suspect: Suspect, column: str, subject: str, visit: str | None) -> Finding:
    return Finding(
        suspect.kind,
        column,
        suspect.value,
        len(suspect.cells),
        suspect.problem,
        suspect.mend,
        suspect.refused,
        subject,
        visit,
        code=suspect.code,
    )


def _numbers(column: pd.Series, name: str) -> list[Suspect]:
    values = column.to_numpy(dtype=float)
    return check_column(values, np.arange(len(values)), name)


def _levels(column: pd.Series) -> list[Suspect]:
    """Levels that are numbers among words: a code for missing is a category of its own."""
    codes = [level for level in column.cat.categories if _coded(level)]
    words = len(column.cat.categories) - len(codes)
    if column.notna().sum() < FEWEST or words < 2 or len(codes) > 3:
        return []
    found = []
    for level in codes:
        cells = np.flatnonzero((column == level).to_numpy())
        if len(cells):
            problem = f"category {level!r} is a number among {words} words: a code for missing?"
            code = f"{column.name}={level}"
            mend = f"Where it stands for missing: --missing {code} (missing=[{code!r}])"
            found.append(Suspect("code", float(level), cells, problem, mend, False, code))
    return found


def _coded(level: str) -> bool:
    try:
        return is_code(float(level))
    except ValueError:
        return False


def beyond_findings(sheet: Sheet) -> list[Finding]:
    """Findings of the cells that a sheet read as missing because no measurement is so large."""
    cells: dict[tuple[str, float], list[int]] = {}
    for (name, record), value in (sheet.beyond or {}).items():
        cells.setdefault((name, value), []).append(record)
    rows = sheet.source.rows([records[0] for records in cells.values()])
    found = []
    for ((name, value), records), row in zip(cells.items(), rows, strict=True):
        problem, mend = no_measurement(value)
        found.append(Finding("system", name, value, len(records), problem, mend, True, row=row))
    return found


def with_rows(
    findings: Sequence[Finding], sheet: Sheet, roles: Roles, places: Places, labels: Sequence[str]
) -> list[Finding]:
    """Findings with the column of the file and the row of the first cell, as far as they can be told.

    labels : of the cohort's visits, in the order of those of `places`.
    """
    person = {name: place for place, name in enumerate(places.ids)}
    slot = {label: place for place, label in enumerate(labels)}
    fields = {part.name: part for part in [*roles.outcomes, *roles.static, *roles.features]}
    features = {part.name for part in roles.features}
    placed: list[tuple[Finding, int | None]] = []
    for finding in findings:
        part = fields.get(finding.column)
        rows = np.flatnonzero(places.person == person.get(str(finding.subject), -1))
        if part is None or not len(rows):
            placed.append((finding, None))
        elif finding.column in features:
            placed.append(_of_visit(finding, part, rows, places, slot.get(str(finding.visit), -1)))
        else:
            placed.append(_of_person(finding, part, rows, sheet))
    found = iter(sheet.source.rows([int(sheet.records[row]) for _, row in placed if row is not None]))
    return [finding if row is None else replace(finding, row=next(found)) for finding, row in placed]


def _of_visit(finding: Finding, part: Field, rows: np.ndarray, places: Places, slot: int) -> tuple[Finding, int | None]:
    if places.slot is None:
        columns = [column for place, column in places.columns(part) if place == slot]
        return replace(finding, column=columns[0] if len(columns) == 1 else finding.column), int(rows[0])
    rows = rows[places.slot[rows] == slot]
    return finding, int(rows[0]) if len(rows) else None


def _of_person(finding: Finding, part: Field, rows: np.ndarray, sheet: Sheet) -> tuple[Finding, int | None]:
    for column in part.columns.values():
        if column not in sheet.columns:
            continue
        cells = pd.to_numeric(sheet.columns[column].take(rows).to_pandas(), errors="coerce").to_numpy(dtype=float)
        same = rows[cells == finding.value]
        if len(same):
            return replace(finding, column=column), int(same[0])
    return finding, None


def judged(
    cohort: Measured, sheet: Sheet, roles: Roles, places: Places, checks: str, ranges: FeatureRanges | None
) -> tuple[Finding, ...]:
    """Findings of a cohort that was read from a sheet. ranges : of a model's training, None without a model.

    Raises `InputError` for those that are refused, where `checks` is "refuse".
    """
    found = find_values(cohort)
    if ranges is not None:
        found += outside(ranges, cohort, found)
    located = [*beyond_findings(sheet), *with_rows(found, sheet, roles, places, cohort.visit_labels)]
    if checks == REFUSE:
        refuse(located, sheet.source.label)
    return tuple(located)


def outside(ranges: FeatureRanges, cohort: Measured, known: Sequence[Finding] = ()) -> list[Finding]:
    """Findings in the baselines of a cohort, of features that a model was trained on: other units, people far outside.

    known : findings of the same cells that are not said twice.
    """
    place = {name: column for column, name in enumerate(cohort.features)}
    columns = [place[name] for name in ranges.features if name in place]
    baseline = cohort.visits[:, 0]
    if columns != list(range(len(cohort.features))):
        baseline = baseline[:, columns]
    inside = ranges.of([name for name in ranges.features if name in place])
    said = {(finding.column, finding.subject) for finding in known}
    found = []
    for name, suspect in inside.check(baseline):
        finding = _finding(suspect, name, str(cohort.ids[suspect.cells[0]]), cohort.visit_labels[0])
        if (finding.column, finding.subject) not in said:
            found.append(finding)
    return found
