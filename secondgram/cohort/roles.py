"""Roles of columns (id, visit, time, covariate, feature, ...): named by the person, or recognised by common names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from ..errors import InputError, some
from .cells import Sheet
from .column_kinds import ColumnKinds, clinical_scores, kind_by_name
from .layouts import LAYOUTS, Field, Fields, looks_ukb, looks_wide, plain_name, read_names
from .reading import Source
from .time_names import is_age, is_visit_date

ID_NAMES = (
    "subject_id participant_id subject participant eid f_eid participant_eid n_eid id sub subjectid subject_label "
    "src_subject_id rid ptid iid patno oasisid oasis_id subjid subj_id subj patient_id patientid patient participantid "
    "person_id personid record_id"
).split()
VISIT_NAMES = (
    "visit visit_id session_id session ses timepoint time_point tp instance wave viscode visit_code eventname "
    "redcap_event_name"
).split()
TIME_NAMES = (
    "time_years time years years_since_baseline time_since_baseline years_from_baseline time_from_baseline years_bl "
    "days_since_baseline days_from_baseline months_since_baseline months_from_baseline weeks_since_baseline "
    "weeks_from_baseline days months weeks mr_delay scan_date visit_date date_of_scan date acq_time scandate mridate "
    "examdate"
).split()
GROUP_NAMES = "family_id family fam_id familyid household household_id rel_family_id".split()
SITE_NAMES = "site site_id centre center scanner scanner_id site_id_l".split()
STATIC_NAMES = (
    "age age_years baseline_age age_baseline age_at_baseline age_at_scan sex gender education education_years "
    "years_of_education educ apoe apoe4 apoe_e4 handedness ethnicity race "
    # Of ADNI, OASIS, PPMI, ABCD and HCP.
    "ptgender pteducat ptethcat ptraccat m_f hand ageatentry age_at_entry age_at_visit educyrs interview_age "
    "demo_sex_v2 sex_at_birth race_ethnicity age_in_yrs ssaga_educ apoe_genotype edu age_at_mri age_at_session"
).split()
# In capitals the socio-economic status, as in OASIS; `ses` is a session.
STATUS = "SES"
# Measured anew at every visit in some tables, a property of the person in others.
PERSONAL_NAMES = "icv tiv etiv estimatedtotalintracranialvol intracranial_volume height townsend deprivation".split()
UKB_AGE = "21003"
UKB_STATIC, UKB_TIME, UKB_SITE = ("31", UKB_AGE, "21022"), "53", "54"


@dataclass(frozen=True)
class Asked:
    """Columns that the person named, by role; None means: find it out."""

    id: str | None
    visit: str | None
    time: str | None
    groups: str | None
    site: str | None
    static: list[str] | None
    outcomes: list[str]
    features: list[str] | None
    layout: str | None
    visits: list[str] | None = None
    wide: str | None = None

    def whole_columns(self, names: Sequence[str]) -> set[str]:
        """The columns named in full for a part other than feature."""
        single = [self.id, self.visit, self.time, self.groups, self.site]
        return {name for name in [*single, *(self.static or []), *self.outcomes] if name in set(names)}


@dataclass(frozen=True)
class Roles:
    """The role of every column that is used, and notes on the decisions."""

    fields: Fields
    id: str
    visit: str | None
    time: Field | None
    groups: Field | None
    site: Field | None
    static: list[Field]
    outcomes: list[Field]
    features: list[Field]
    notes: list[str] = field(default_factory=list)

    @property
    def others(self) -> list[Field]:
        """Every field but the features."""
        single = [part for part in (self.time, self.groups, self.site) if part is not None]
        return [*single, *self.static, *self.outcomes]

    @property
    def columns(self) -> list[str]:
        """Every column in use, once."""
        fields = [column for part in [*self.others, *self.features] for column in part.columns.values()]
        return list(dict.fromkeys([self.id, *([self.visit] if self.visit else []), *fields]))

    @property
    def as_text(self) -> set[str]:
        """Columns whose text is kept exactly, never made a number on reading."""
        parts = [part for part in (self.time, self.groups, self.site) if part is not None]
        return {self.id, *([self.visit] if self.visit else [])} | {c for part in parts for c in part.columns.values()}


def find_layout(source: Source, asked: Asked) -> str:
    """`long`, `wide` or `ukb`. Raises `InputError` where nothing says so."""
    if asked.layout is not None:
        if asked.layout not in LAYOUTS:
            raise InputError(f"layout={asked.layout!r} is unknown", mend=f"Use one of {', '.join(LAYOUTS)}")
        return asked.layout
    if asked.wide is not None:
        return "wide"
    if asked.visit or visit_name(source.names):
        return "long"
    if looks_ukb(source.names):
        return "ukb"
    kept = asked.whole_columns(source.names)
    if looks_wide([name for name in source.names if name not in kept]):
        return "wide"
    if asked.time or known_name(source.names, TIME_NAMES):
        return "long"
    raise InputError(
        "the layout cannot be determined: looked for a visit column "
        f"({some(VISIT_NAMES, 4)}), for names with a visit (hippocampus_0 and hippocampus_1, .0/.1, _bl/_fu, "
        f"_v1/_v2), for UK Biobank names (25005-2.0) and for a time column ({some(TIME_NAMES, 3)})",
        file=source.label,
        mend="Name the visit column with visit=..., or the layout with layout=... (long: one row per person and "
        "visit), or say how wide names are made with wide='{feature}_{visit}'",
    )


def read_fields(source: Source, asked: Asked, layout: str) -> Fields:
    """Sort the columns into fields, those that the person named in full apart."""
    kept = asked.whole_columns(source.names) if layout != "long" else ()
    return read_names(layout, source.names, kept, source.label, asked.wide)


def find_roles(source: Source, asked: Asked) -> Roles:
    """Resolve every name before a value is read. Candidates for features are settled later, from their values."""
    layout = find_layout(source, asked)
    fields = read_fields(source, asked, layout)
    claims = _Claims(fields)
    who = claims.column(asked.id, "id", ID_NAMES)
    if who is None:
        raise InputError(
            f"no id column was found (looked for {some(ID_NAMES, 6)})", file=source.label, mend="Name it with id=..."
        )
    visit = claims.column(asked.visit, "visit", VISIT_NAMES) if layout == "long" or asked.visit else None
    if visit and layout != "long":
        problem = f"a {layout} table has one row per person and no visit column"
        raise InputError(problem, file=source.label, column=visit, mend="Leave out visit=..., or use layout='long'")
    # Named columns come before recognised ones, so that no guess takes a named column.
    outcomes = claims.several(asked.outcomes, "outcome")
    named = claims.several(asked.static or [], "static covariate")
    claims.reserve([asked.time or None, asked.groups, asked.site])
    explicit = [] if asked.features is None else [name for name in asked.features if not _is_glob(name)]
    claims.reserve([fields.home.get(name, (name, None))[0] for name in explicit])
    time = None
    if asked.time != "":
        time = claims.field(asked.time, "time", [*TIME_NAMES, *([UKB_TIME] if layout == "ukb" else [])], shared=named)
    groups = claims.field(asked.groups, "group", GROUP_NAMES)
    site = claims.field(asked.site, "site", [*SITE_NAMES, *([UKB_SITE] if layout == "ukb" else [])], shared=named)
    found = [] if asked.static is not None else claims.known([*STATIC_NAMES, *PERSONAL_NAMES], UKB_STATIC, layout)
    if time is not None and asked.static is None and holds_age(time, layout):
        order = list(fields.fields)
        found = sorted([*found, time], key=lambda part: order.index(part.name) if part.name in order else len(order))
    features = _candidates(claims, asked.features)
    roles = Roles(fields, who, visit, time, groups, site, [*named, *found], outcomes, features)
    return replace(roles, notes=_first_notes(roles, asked))


def _first_notes(roles: Roles, asked: Asked) -> list[str]:
    why = {"long": f"column {roles.visit!r} found" if roles.visit else "one row per person and visit"}
    why |= {"wide": "one row per person, visits in the column names", "ukb": "UK Biobank field names"}
    notes = [f"layout: {roles.fields.layout} ({'as asked' if asked.layout else why[roles.fields.layout]})"]
    notes.append(f"id column: {roles.id!r}")
    for word, part in (("time", roles.time), ("group", roles.groups), ("site", roles.site)):
        if part is not None:
            notes.append(f"{word} column: {some(repr(column) for column in part.columns.values())}")
    return notes


def known_name(names: Iterable[str], known: Sequence[str]) -> str | None:
    """The first of the names that is a known one, as it is written there."""
    plain = {plain_name(name): name for name in reversed(list(names))}
    return next((plain[name] for name in known if name in plain), None)


def visit_name(names: Iterable[str]) -> str | None:
    """The name of the visit column by common names, None where there is none."""
    return known_name([name for name in names if name != STATUS], VISIT_NAMES)


def holds_age(part: Field, layout: str) -> bool:
    """Whether a field holds people's age."""
    return is_age(part.name) or (layout == "ukb" and part.name == UKB_AGE)


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")


class _Claims:
    """Assignment of columns to roles; a column has one."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.role: dict[str, str] = {}
        self.reserved: set[str] = set()

    def column(self, asked: str | None, role: str, known: Sequence[str]) -> str | None:
        """A single column, named in full or recognised."""
        if asked is None:
            free = [name for name in self.fields.home if name not in self.role]
            asked = visit_name(free) if role == "visit" else known_name(free, known)
            if asked is None:
                return None
        elif asked not in self.fields.home:
            self.fields.find(asked, role)  # raises with the closest name, unless it is the stem of several columns
            raise InputError(
                f"is the stem of several columns, {role} must be one", file=self.fields.label, column=asked
            )
        self.claim(Field(asked, {None: asked}), role)
        return asked

    def field(self, asked: str | None, role: str, known: Sequence[str], shared: Sequence[Field] = ()) -> Field | None:
        """A field for one role, named or recognised; it may be one of `shared` too."""
        if asked is not None:
            part = self.fields.find(asked, role)
            if part not in shared:
                self.claim(part, role)
            return part
        free = self.free()
        name = known_name(free, known)
        if name is None and role == "time":
            name = next((name for name in self.fields.fields if name in free and is_visit_date(name)), None)
        if name is None:
            return None
        self.claim(self.fields.fields[name], role)
        return self.fields.fields[name]

    def several(self, asked: Sequence[str], role: str) -> list[Field]:
        """The fields of these names or globs, each once."""
        chosen: dict[str, Field] = {}
        for name in asked:
            for part in self.match(name, role) if self.is_glob(name) else [self.fields.find(name, role)]:
                chosen.setdefault(part.name, part)
        for part in chosen.values():
            self.claim(part, role)
        return list(chosen.values())

    def is_glob(self, name: str) -> bool:
        """Whether the name is a pattern and no column's own name."""
        return _is_glob(name) and name not in self.fields.home and name not in self.fields.fields

    def match(self, pattern: str, role: str) -> list[Field]:
        """Free fields of which the name, or a column's name, fits the pattern."""
        free = self.free()
        found = {name for name in free if fnmatchcase(name, pattern)}
        found |= {self.fields.home[column][0] for column in self.fields.home if fnmatchcase(column, pattern)} & free
        if not found:
            raise InputError(
                f"no free column matches {pattern!r} (named as {role})",
                file=self.fields.label,
                mend=f"Columns are: {some(self.fields.fields, 8)}",
            )
        return [part for name, part in self.fields.fields.items() if name in found]

    def known(self, known: Sequence[str], ukb: Sequence[str], layout: str) -> list[Field]:
        """Every free field with one of these names, in the order of the table."""
        wanted = {*known, *(ukb if layout == "ukb" else ())}
        free = self.free()
        chosen = [
            part
            for name, part in self.fields.fields.items()
            if name in free and (plain_name(name) in wanted or is_age(name) or name == STATUS)
        ]
        for part in chosen:
            self.claim(part, "static covariate")
        return chosen

    def reserve(self, names: Iterable[str | None]) -> None:
        """Keep named fields from being taken by a guess."""
        self.reserved |= {name for name in names if name is not None}

    def free(self) -> set[str]:
        """Names of fields none of whose columns has a role."""
        return {
            name
            for name, part in self.fields.fields.items()
            if name not in self.reserved and not any(column in self.role for column in part.columns.values())
        }

    def claim(self, part: Field, role: str) -> None:
        """Give every column of a field to a role. Raises `InputError` where one has another."""
        for column in part.columns.values():
            if column in self.role and (self.role[column] != role or role in {"id", "visit", "time", "group"}):
                raise InputError(
                    f"the column is named as {self.role[column]} and as {role}",
                    file=self.fields.label,
                    column=column,
                    mend="Give each column one part",
                )
            self.role[column] = role


def _candidates(claims: _Claims, asked: list[str] | None) -> list[Field]:
    """Fields that may be features: those named, or all that are free."""
    claims.reserved = set()
    if asked is not None:
        chosen: dict[str, Field] = {}
        for name in asked:
            parts = claims.match(name, "feature") if claims.is_glob(name) else [_whole(claims, name)]
            chosen |= {part.name: part for part in parts if part.name not in chosen}
        for part in chosen.values():
            claims.claim(part, "feature")
        return list(chosen.values())
    free = claims.free()
    return [part for name, part in claims.fields.fields.items() if name in free]


def _whole(claims: _Claims, name: str) -> Field:
    # A feature named by one of its columns is meant with every visit.
    part = claims.fields.find(name, "feature")
    return claims.fields.fields.get(claims.fields.home.get(name, (part.name, None))[0], part)


def resolve_roles(roles: Roles, sheet: Sheet, asked: Asked, constant: Sequence[str], kinds: ColumnKinds) -> Roles:
    """Choose features and recognised covariates by the content of their columns.

    constant : candidate fields that never change within a person though people differ.  kinds : looks at values.
    Raises `InputError` where no feature is left.
    """
    own = {*roles.fields.home, *roles.fields.fields}
    named = {name for name in asked.features or [] if not _is_glob(name) or name in own}
    named |= {roles.fields.home[name][0] for name in named & roles.fields.home.keys()}
    left: dict[str, str] = {}
    features, static, doubtful, spoilt = [], [], [], set()
    for part in roles.features:
        if part.name in named:
            features.append(part)
            continue
        reason = _reason(part, roles, sheet, part.name in constant)
        if reason is None and (reason := kinds.bad_cell(part)) is not None:
            spoilt.add(part.name)
        if reason is None and (reason := kinds.by_value(part)) is not None:
            doubtful.append(part)
        if reason is None:
            features.append(part)
        else:
            left[part.name] = reason
    notes = list(roles.notes)
    for part in roles.static:
        if asked.static is None and part == roles.time and not all(map(sheet.numeric, part.columns.values())):
            notes.append(
                f"{part.name!r} is the time and, as text, no covariate: name it in static=[...] for categories"
            )
            continue
        if asked.static is None and plain_name(part.name) in PERSONAL_NAMES and part.name not in constant:
            # Without a personal constant it is a measurement of the visit.
            if asked.features is None and _reason(part, roles, sheet, False) is None:
                features.append(part)
            continue
        static.append(part)
    if roles.time is not None and roles.time in static:
        notes.append(f"{roles.time.name!r} is the time, and at the first visit a covariate, as it is given")
    elif roles.time is not None and asked.static and holds_age(roles.time, roles.fields.layout):
        notes.append(
            f"{roles.time.name!r} is the time and no covariate: name it in static=[...], too, to condition on it"
        )
    if not features:
        # Values alone do not make a table one without features: whoever looks at it decides.
        features = doubtful
        left = {name: reason for name, reason in left.items() if name not in {part.name for part in doubtful}}
    if not features:
        for column in (column for part in roles.features if part.name in spoilt for column in part.columns.values()):
            sheet.numbers(column)  # raises for the cell that is no number
        raise InputError(
            "no feature column was found" + "".join(f"; {note}" for note in _left_notes(left)),
            file=sheet.source.label,
            mend="Name the imaging columns with features=[...] or a pattern such as features='vol_*'",
        )
    order = {name: place for place, name in enumerate(roles.fields.fields)}
    if asked.features is None:
        features.sort(key=lambda part: order.get(part.name, 0))
    names = [part.name for part in features]
    notes = [*notes, f"{len(features)} numeric columns taken as features: {some(names)}"]
    if asked.static is None:
        listed = ", ".join(part.name for part in static)
        notes.append(f"static covariates: {listed}" if static else "static covariates: none recognised")
    scores = clinical_scores([name for name in names if name not in named])
    if scores:
        notes.append(f"scores of tests are features too: {some(scores)} (exclude them if only images are meant)")
    notes += _left_notes(left)
    return replace(roles, features=features, static=static, notes=notes)


def _left_notes(left: dict[str, str]) -> list[str]:
    """left : name -> reason."""
    alike: dict[str, list[str]] = {}
    for name, reason in left.items():
        alike.setdefault(reason, []).append(name)
    return [f"left out: {some(names)} ({reason})" for reason, names in alike.items()]


def _reason(part: Field, roles: Roles, sheet: Sheet, constant: bool) -> str | None:
    """The reason why a column that nobody named is no feature, or None."""
    if plain_name(part.name) in {*ID_NAMES, *VISIT_NAMES, *TIME_NAMES, *GROUP_NAMES, *SITE_NAMES}:
        return "the name of an id, visit, time, group or site"
    if not all(sheet.numeric(column) for column in part.columns.values()):
        return "text"
    kind = kind_by_name(part.name)
    if kind is not None:
        return kind
    if roles.fields.layout != "long" and not any(part.columns.keys()):
        return "no visit in the name"
    if roles.fields.layout == "ukb" and not _at_imaging_visit(part, roles):
        return "not measured at an imaging visit"
    return "the same at every visit of a person: name it in static=[...] to condition on it" if constant else None


def _at_imaging_visit(part: Field, roles: Roles) -> bool:
    late = any(visit is not None and int(visit) >= 2 for other in roles.features for visit in other.columns)
    return not late or any(visit is not None and int(visit) >= 2 for visit in part.columns)
