"""`InputError`, raised for a table, model or argument that cannot be used."""

from __future__ import annotations


class InputError(ValueError):
    """A table, model or argument that cannot be used, with the place of the fault and how to mend it.

    Parameters
    ----------
    problem : what is wrong, in one sentence without a final full stop.
    file, column, row : where, as far as it is known. `row` is the 1-based line of a text file
        (the header is line 1) or the 1-based record of a binary table.
    mend : what to do about it, in one sentence.

    The command line prints the message and ends with exit code 2, without a traceback.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        column: object = None,
        row: object = None,
        mend: str | None = None,
    ) -> None:
        self.problem, self.file, self.column, self.row, self.mend = problem, file, column, row, mend
        place = [
            f"{word} {value!r}" if word == "column" else f"{word} {value}" if word else str(value)
            for word, value in (("", file), ("column", column), ("row", row))
            if value is not None
        ]
        text = f"{', '.join(place)}: {problem}" if place else problem
        super().__init__(f"{text}. {mend}" if mend else f"{text}.")


class MissingColumn(InputError):
    """A column was asked for by a name that the table does not have; `column` is that name."""


def some(names: object, limit: int = 5) -> str:
    """The first few of a list of names, for a message: "a, b, c and 12 more"."""
    listed = [str(name) for name in names]  # type: ignore[attr-defined]
    head = ", ".join(listed[:limit])
    return head if len(listed) <= limit else f"{head} and {len(listed) - limit} more"
