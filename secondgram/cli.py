"""The command line: `secondgram --help` teaches it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from .errors import InputError, MissingColumn
from .files import Kind, Target, clear, locked, look, writing
from .ops.registry import BackendUnavailableError

if TYPE_CHECKING:
    from .cohort import Cohort
    from .imputation.imputer import SecondgramImputer

app = typer.Typer(
    help="Impute missing follow-up MRI visits of a longitudinal cohort.\n\n"
    "A cohort is a table (CSV, TSV, Parquet or Arrow): one row per person and visit, or one row per person with the "
    "visit in the column names (UK Biobank names too). Columns are recognised where their names say what they are; "
    "what was decided is printed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

CohortFiles = Annotated[
    list[Path], typer.Argument(help="the cohort's table; several are merged by person and visit", show_default=False)
]
ROLES: dict[str, tuple[Any, Any]] = {
    "id": (Annotated[str | None, typer.Option("--id", help="column of the subject id")], None),
    "visit": (Annotated[str | None, typer.Option(help="column of the visit (long tables)")], None),
    "time": (Annotated[str | None, typer.Option(help="column of the time: numbers or dates; '' for none")], None),
    "static": (Annotated[str | None, typer.Option(help="covariates, separated by commas; '' for none")], None),
    "outcomes": (Annotated[str | None, typer.Option(help="outcomes: never condition a model")], None),
    "groups": (Annotated[str | None, typer.Option(help="column of the family that stays together in a split")], None),
    "site": (Annotated[str | None, typer.Option(help="column of the site; features are scaled within it")], None),
    "features": (Annotated[str | None, typer.Option(help="features, separated by commas; * and ? match")], None),
    "layout": (Annotated[str | None, typer.Option(help="long, wide or ukb; recognised if left out")], None),
    "target": (
        Annotated[int | None, typer.Option(min=1, help="which visit after the first is the follow-up; 1 if left out")],
        None,
    ),
    "time_unit": (
        Annotated[str | None, typer.Option(help="of --time: days, weeks, months, years; found if left out")],
        None,
    ),
    "wide": (Annotated[str | None, typer.Option(help="names of a wide table, such as {feature}_{visit}")], None),
    "exclude": (Annotated[str | None, typer.Option(help="columns that are not used, separated by commas")], None),
    "decimal": (Annotated[str | None, typer.Option(help="mark of decimals, . or ,; each column tells it")], None),
    "delimiter": (Annotated[str | None, typer.Option(help="what stands between cells; the header tells it")], None),
    "visits": (Annotated[str | None, typer.Option(help="labels of the visits in order, the baseline first")], None),
    "missing": (
        Annotated[
            str | None,
            typer.Option(
                help="codes for missing, such as -4,-9999 or COLUMN=0; adni, ukb, stata, spss name sets; '' for none"
            ),
        ],
        None,
    ),
    "checks": (
        Annotated[str, typer.Option(help="values that cannot be right: refuse, or warn (and use them as they are)")],
        "refuse",
    ),
}
Seed = Annotated[int, typer.Option(min=0, help="the same seed gives the same result")]
Draws = Annotated[int, typer.Option(help="plausible follow-ups per person")]
Resume = Annotated[bool, typer.Option("--resume", help="go on where an interrupted run stopped")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print errors and warnings only")]
Roles = dict[str, Any]


def reads_cohort(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which column is what, gathered in its argument `roles`."""
    own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "roles"]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in ROLES.items()
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        roles = {name: given.pop(name) for name in ROLES}
        command(**given, roles=roles)

    # The names of annotations are resolved here, because typer cannot see through the wrapper.
    hints = get_type_hints(command, include_extras=True)
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]
    wrapped.__signature__ = inspect.Signature(parameters + extra)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters + extra}
    return wrapped


def _check_tables(*paths: Path) -> None:
    """Raise `InputError` for a table that is not there, before seconds are spent on importing what reads it."""
    for path in paths:
        if not path.exists():
            raise InputError("there is no such file", file=path, mend="Check the path")


def _check_model(folder: Path, *tables: Path) -> None:
    from .model_folder import find_folder

    find_folder(folder)
    _check_tables(*tables)


def _say(text: str, quiet: bool = False) -> None:
    if not quiet:
        typer.echo(text, err=True)


def _names(text: str | list[str] | None) -> list[str] | None:
    if not isinstance(text, str):
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


def _cohort(
    paths: Sequence[Path], quiet: bool, roles: dict[str, Any], model: SecondgramImputer | None = None
) -> Cohort:
    """Read a cohort and say what was decided; columns a model was trained on are what they were then."""
    cohort = _read(paths, roles, model)
    _say(f"{' + '.join(map(str, paths))}: {cohort!r}", quiet)
    _say_notes(cohort.notes, quiet)
    return cohort


def _read(paths: Sequence[Path], roles: dict[str, Any], model: SecondgramImputer | None = None) -> Cohort:
    from .cohort import read_cohort

    names = ("features", "static", "outcomes", "visits", "missing", "exclude")
    listed: dict[str, Any] = {name: _names(roles[name]) for name in names}
    listed |= {name: listed[name] or () for name in ("outcomes", "exclude")}
    try:
        cohort = read_cohort(list(paths), **(roles | listed), like=model)
    except MissingColumn as error:
        trained = [] if model is None else [*model.columns_.features, *model.columns_.covariates]
        if error.column not in trained:
            raise
        raise InputError(
            "the model was trained with this column, and the table has none of that name",
            file=error.file,
            column=error.column,
            mend="Add it (empty cells are fine), or use the model of this cohort if this one is of another cohort",
        ) from error
    return cohort


def _say_notes(notes: Iterable[str], quiet: bool) -> None:
    """Print notes; those on values that may be wrong also where only errors and warnings are."""
    from .cohort.value_findings import LOOK

    for note in notes:
        if note.startswith(LOOK):
            _say(f"  warning: {note}")
        else:
            _say(f"  {note}", quiet)


def _years(text: str | None) -> list[float]:
    try:
        return [float(each) for each in _names(text) or []]
    except ValueError as error:
        raise InputError(f"--at {text!r}", mend="Give years, such as --at 2.5,5") from error


def _kinds(given: list[str] | None) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for each in given or []:
        pattern, equals, kind = each.partition("=")
        if not equals:
            raise InputError(f"--kind {each!r} is not of the form name=kind", mend="For example '*WMH*=positive'")
        found[pattern.strip()] = kind.strip()
    return found or None


def _overrides(settings: list[str] | None) -> dict[str, Any]:
    import json

    found: dict[str, Any] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting!r} is not of the form name=value", mend="For example --set epochs=200")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


@app.command()
@reads_cohort
def check(
    cohort: CohortFiles,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
    quiet: Quiet = False,
    *,
    roles: Roles,
) -> None:
    """Read a cohort and list values that may not be what was measured, without learning anything.

    Codes for missing (-9999, 0 among volumes), numbers that statistics packages write for missing, slips of a decimal
    point and two units in one column, each with column, row, value and how to mend it. The exit code is 0 where
    nothing was found, 1 where something was, and 2 where the table cannot be read. Take the options of fit.
    """
    _check_tables(*cohort)
    import json

    from .cohort.value_findings import LIST, LOOK, show_findings

    named = " + ".join(map(str, cohort))
    people = _read(cohort, roles | {"checks": LIST})
    if as_json:
        found = [finding.facts() for finding in people.check()]
        typer.echo(json.dumps({"file": named, "people": len(people), "findings": found}, indent=1))
    else:
        _say(f"{named}: {people!r}", quiet)
        _say_notes([note for note in people.notes if not note.startswith(LOOK)], quiet)
        show_findings(people.check(), named)
    if people.check():
        raise typer.Exit(1)


@app.command()
@reads_cohort
def fit(
    cohort: CohortFiles,
    out: Annotated[Path, typer.Option(help="folder for the model", show_default=False)],
    preset: Annotated[str, typer.Option(help="default, or paper for the published method")] = "default",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 or bf16 for draws; auto decides by a check and keeps it with the model")
    ] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", help="an option of the preset, name=value")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="what values features can have, name=kind; * and ? match in the name")
    ] = None,
    seed: Seed = 0,
    resume: Resume = False,
    save_every: Annotated[float, typer.Option(help="seconds between savings of the state that --resume uses")] = 20.0,
    quiet: Quiet = False,
    *,
    roles: Roles,
) -> None:
    """Learn from a cohort in which some people have a follow-up, and write the model to a folder."""
    _check_tables(*cohort)
    from .imputation.imputer import SecondgramImputer

    imputer = SecondgramImputer(preset, seed, precision=precision, kinds=_kinds(kind), **_overrides(settings))
    look(out, Kind.WHOLE_FOLDER)
    train = _cohort(cohort, quiet, roles)
    with _output(out, quiet, Kind.WHOLE_FOLDER) as place:
        state = place.real.with_name(f".{place.real.name}.training")
        if not resume:
            clear(state)
        imputer.fit(train, state=state, state_every=save_every, resume=resume, show=not quiet)
        imputer.save(out)
        clear(state)
    for line in imputer.model_.summary():
        _say(f"  {line}", quiet)
    _say(f"model written to {out}", quiet)


@app.command()
def verdict(
    model: Annotated[Path, typer.Argument(help="folder that fit wrote", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="write one row a feature as CSV")] = None,
    quiet: Quiet = False,
) -> None:
    """Say what each part of a fitted model earned, and for which features the baseline is carried forward."""
    _check_model(model)
    from .evaluation.score_tables import show_verdict
    from .imputation.imputer import load
    from .imputation.interfaces import JudgedModel

    fitted = load(model).model_
    if not isinstance(fitted, JudgedModel):
        raise InputError("is of preset paper, which keeps no verdict", file=model, mend="Fit with --preset default")
    if out is not None:
        with _output(out, quiet), writing(out) as file:
            fitted.verdict().to_csv(file)
    if not quiet:
        show_verdict(fitted.ladder(), fitted.verdict())


@contextmanager
def _output(out: Path, quiet: bool, kind: Kind = Kind.FILE) -> Iterator[Target]:
    """Hold the lock of an output while it is made. Refuses a path that cannot be written before the work, not after."""
    place = look(out, kind, streams=kind is Kind.FILE)
    with locked(place) as notes:
        for note in notes:
            _say(f"  {out}: {note}", quiet)
        yield place


@app.command()
@reads_cohort
def impute(
    model: Annotated[Path, typer.Argument(help="folder that fit wrote", show_default=False)],
    cohort: CohortFiles,
    out: Annotated[Path, typer.Option(help="Parquet file for the draws", show_default=False)],
    draws: Draws = 20,
    seed: Seed = 7,
    who: Annotated[str, typer.Option(help="missing: incomplete follow-ups; all: everyone")] = "missing",
    steps: Annotated[int | None, typer.Option(help="network evaluations per draw")] = None,
    solver: Annotated[str | None, typer.Option(help="ddpm, ddim, dpm++2m or sde-dpm++2m")] = None,
    gap: Annotated[float | None, typer.Option(help="years after baseline, where no time is recorded")] = None,
    history: Annotated[
        str | None, typer.Option(help="what conditions the visit: all others, or the first; the model's if left out")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="years after the first visit to impute everybody at, such as 2.5,5")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16 or auto; the model's if left out")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="at most so many; changes no value")] = None,
    resume: Resume = False,
    quiet: Quiet = False,
    *,
    roles: Roles,
) -> None:
    """Draw follow-up visits for the people of a cohort and write them to a Parquet file.

    A model that was fitted with history=all imputes several visits of a person
    together: --visits missing all that anybody lacks, --visits all measured
    ones too, each told from the others, and --at 2.5,5 other times.
    """
    _check_model(model, *cohort)
    from .imputation.imputer import load

    look(out, streams=True)
    # Labels are the order of the table's visits, as in every command.
    visits = roles["visits"] if roles["visits"] in ("missing", "all") else None
    if visits is not None:
        roles = roles | {"visits": None}
    imputer = load(model)
    people = _cohort(cohort, quiet, roles, imputer)
    options: dict[str, Any] = {"gap": gap, "history": history, "resume": resume, "show": not quiet}
    options |= {"precision": precision, "threads": threads}
    options |= {"checks": roles["checks"], "visits": visits, "at": _years(at)}
    result = imputer.impute(people, draws, seed, who, steps, solver, out, **options)
    _say_notes([note for note in result.notes if note not in people.notes], quiet)
    rows = "people" if visits is None and at is None else "visits"
    _say(f"{len(result.ids)} {rows} x {draws} draws written to {out}", quiet)


@app.command()
@reads_cohort
def evaluate(
    file: Annotated[Path, typer.Argument(help="Parquet file that impute wrote", show_default=False)],
    truth: Annotated[list[Path], typer.Argument(help="cohort table with the true follow-ups", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="write the scores as CSV")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    *,
    roles: Roles,
) -> None:
    """Score imputed visits against visits that were measured."""
    _check_tables(file, *truth)
    from .evaluation.evaluate import evaluate as score
    from .evaluation.score_tables import show_scores
    from .imputation.draws_file import drawn_features

    if out is not None:
        look(out, streams=True)
    roles["features"] = roles["features"] or list(drawn_features(file))
    table = score(file, _cohort(truth, quiet, roles), seed=seed)
    if out is not None:
        with _output(out, quiet), writing(out) as written:
            table.to_csv(written)
    show_scores(table)


@app.command()
@reads_cohort
def compare(
    cohort: CohortFiles,
    out: Annotated[Path, typer.Option(help="folder for the tables", show_default=False)],
    methods: Annotated[str | None, typer.Option(help="names separated by commas, or all")] = None,
    folds: Annotated[int, typer.Option(min=1, help="every person is tested once; 1: a quarter is held out")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="repeat with other folds")] = 1,
    task: Annotated[str, typer.Option(help="first, forecast, interpolate, backcast or as-missing")] = "first",
    draws: Draws = 20,
    seed: Seed = 0,
    time_limit: Annotated[float, typer.Option(help="seconds another library may take for one fold")] = 1800.0,
    quiet: Quiet = False,
    *,
    roles: Roles,
) -> None:
    """Compare methods on people held out whole: carry-forward, ridge, the published method, and this library.

    By --task: the follow-up from the first visit (first), or visits of a person
    that were measured and are hidden, from those before (forecast), around
    (interpolate) or after them (backcast), or as others missed them (as-missing).
    A rerun with the same --out goes on where an interrupted one stopped.
    """
    _check_tables(*cohort)
    from .comparison.compare import compare as run
    from .comparison.run_folder import show_comparison

    look(out, Kind.FOLDER)
    people = _cohort(cohort, quiet, roles)
    # One word is a method, or all.
    names = _names(methods) or None
    asked = names[0] if names is not None and len(names) == 1 else names
    options = {"task": task, "seed": seed, "repeats": repeats, "out": out}
    options |= {"time_limit": time_limit, "show": not quiet}
    with _output(out, quiet, Kind.FOLDER):
        table = run(people, asked, folds, draws, **options)  # type: ignore[arg-type]
    show_comparison(table)
    _say(f"tables written to {out}, and {out / 'report.html'}, which shows and explains them", quiet)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="folder that compare or demo wrote", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="HTML file to write; report.html in RUN if left out")] = None,
    show: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of a comparison: one HTML page that needs no network and can be printed or sent.

    It says first, feature by feature, whether to carry the baseline forward, to
    use ridge or this library, and by how much it helps. Then come the methods
    ranked, change, calibration, correlations, a few people, training, copies,
    groups of people, and where it all comes from. It holds no subject id.
    compare and demo write it themselves; this writes it again, or elsewhere.
    """
    from .comparison.report import report as write

    written = write(run, out)
    _say(f"report written to {written}", quiet)
    if show:
        typer.launch(str(written))


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="table to write; its suffix chooses the format", show_default=False)],
    subjects: Annotated[int, typer.Option(help="people")] = 5000,
    features: Annotated[int, typer.Option(help="imaging features")] = 128,
    paired: Annotated[float, typer.Option(help="share of people with a follow-up")] = 0.12,
    seed: Seed = 0,
    mode: Annotated[str, typer.Option(help="cohort, gaussian, converters or trajectories")] = "cohort",
    selection: Annotated[str, typer.Option(help="who returns: random, or health for the healthier")] = "random",
    visits: Annotated[int | None, typer.Option(help="mode trajectories: visits of each person [5]")] = None,
    slope: Annotated[float | None, typer.Option(help="mode trajectories: SD of a change a year, in SD [0.06]")] = None,
    wander: Annotated[float | None, typer.Option(help="mode trajectories: SD of what passes in two years [0]")] = None,
    sites: Annotated[int | None, typer.Option(help="mode trajectories: scanners [1]")] = None,
    dropout: Annotated[float | None, typer.Option(help="mode trajectories: how much the ill leave [0]")] = None,
) -> None:
    """Simulate a cohort with known hidden follow-ups; they are written beside it as NAME-truth."""
    from .cohort import simulate as make

    hidden = out.with_name(f"{out.stem}-truth{out.suffix}")
    with _output(out, False), _output(hidden, False):
        cohort = make(
            subjects,
            features,
            paired,
            seed,
            mode,
            selection,
            visits=visits,
            slope=slope,
            wander=wander,
            sites=sites,
            dropout=dropout,
        )
        cohort.write(out)
        cohort.write_truth(hidden)
    _say(f"{cohort!r} written to {out}, the hidden follow-ups to {hidden}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("demo-results"),
    subjects: Annotated[int, typer.Option(min=200, help="people to simulate")] = 4000,
    features: Annotated[int, typer.Option(min=2, help="features to simulate")] = 64,
    seed: Seed = 0,
) -> None:
    """Simulate a cohort, learn, impute, evaluate: a table, a Parquet file, three plots and a report."""
    from .comparison.demo import run

    with _output(out, False, Kind.FOLDER):
        run(out, subjects, features, seed)


@app.command()
def doctor() -> None:
    """Versions, backends, and why each is used or not."""
    from .doctor import print_report

    print_report()


@app.command("import-checkpoint")
@reads_cohort
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="checkpoint of the paper's code (.pt)", show_default=False)],
    cohort: Annotated[
        list[Path], typer.Option(help="table it was trained on: its ranges are needed", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder for the model", show_default=False)],
    quiet: Quiet = False,
    *,
    roles: Roles,
) -> None:
    """Turn a checkpoint of the paper's code into a model. Only tensors are read; nothing in the file is run."""
    _check_tables(file, *cohort)
    from .imputation.imputer import from_reference_checkpoint

    look(out, Kind.WHOLE_FOLDER)
    train = _cohort(cohort, quiet, roles)
    with _output(out, quiet, Kind.WHOLE_FOLDER):
        from_reference_checkpoint(file, train).save(out)
    _say(f"model written to {out}", quiet)


def main() -> None:
    """Entry point: 0 on success, 2 with a message on bad input, without a traceback."""
    try:
        app()
    except (InputError, BackendUnavailableError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except ValueError as error:
        # Of numpy and scipy, neither of which is loaded for every command.
        if type(error).__name__ != "LinAlgError":
            raise
        typer.echo(
            f"error: the numbers cannot be computed with ({error}). Look at them with secondgram check", err=True
        )
        sys.exit(2)
    except MemoryError:
        typer.echo("error: out of memory. Use fewer features or draws, or a machine with more memory.", err=True)
        sys.exit(2)
