"""Cron's own five fields (crontab(5)), read exactly, and said in other schedulers' words."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable
from dataclasses import dataclass

from docker_kernel.errors import ContainerizeError

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True)
class _Field:
    """One of the five fields: its name, bounds, and the names that its values have."""

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, MONTHS),
    _Field("day of the week", 0, 7, DAYS),
)


@dataclass(frozen=True)
class Cron:
    """A schedule.

    Args:
        fields: the five, with numbers only.
        minutes, hours, days, months, weekdays: when it is due; Sunday is 0.
        either: whether a day is due by its date or by its weekday; else it must be by both.
    """

    fields: tuple[str, str, str, str, str]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    @property
    def text(self) -> str:
        """As cron has it."""
        return " ".join(self.fields)

    def kubernetes(self) -> str:
        """As a CronJob has it.

        Raises:
            ContainerizeError: Kubernetes reads it otherwise, and has no words for it.
        """
        # Its parser (github.com/robfig/cron) takes a field with a step for a restriction; cron looks for the star.
        stepped = [text for text in (self.fields[2], self.fields[4]) if re.match(r"\*/", text)]
        if stepped and len(self.days) < 31 and len(self.weekdays) < 7:
            raise ContainerizeError(
                f"Kubernetes cannot say {self.text!r}: with {stepped[0]!r} cron asks for a day's date and its weekday, "
                "Kubernetes for either of them. Leave one of the two fields at '*'."
            )
        # It knows no day 7.
        weekdays = self.fields[4] if "7" not in self.fields[4] else ",".join(map(str, sorted(self.weekdays)))
        return " ".join((*self.fields[:4], weekdays))

    def systemd(self, time_zone: str = "") -> list[str]:
        """As OnCalendar= has it (systemd.time(7)): one line, or two of which either is due."""
        dates = f"*-{_ranges(self.months, 12, 1)}-"
        clock = f"{_ranges(self.hours, 24)}:{_ranges(self.minutes, 60)}:00"
        if time_zone:
            clock += f" {time_zone}"
        weekdays = ",".join(DAYS[day].capitalize() for day in (1, 2, 3, 4, 5, 6, 0) if day in self.weekdays) + " "
        days = _ranges(self.days, 31, 1)
        if self.either:
            return [f"{dates}{days} {clock}", f"{weekdays}{dates}* {clock}"]
        return [f"{weekdays if len(self.weekdays) < 7 else ''}{dates}{days} {clock}"]


def parse(text: str) -> Cron:
    """Read an expression.

    Raises:
        ContainerizeError: it is none, or is never due; the message says which part is wrong.
    """
    given = MACROS.get(text.strip().lower(), text).split()
    if text.strip().startswith("@") and len(given) == 1:
        raise ContainerizeError(f"{text.strip()!r} is no time: there are {', '.join(MACROS)}.")
    if len(given) != 5:
        more = " (there are no seconds)" if len(given) == 6 else ""
        raise ContainerizeError(
            f"{text!r} has {len(given)} fields, and cron's expressions have five{more}: minute, hour, day of the "
            "month, month, day of the week, such as '0 6 * * 1-5'."
        )
    read = [_read(field, part) for field, part in zip(_FIELDS, given, strict=True)]
    minutes, hours, days, months, weekdays = (values for _, values in read)
    # Both are restricted: then cron takes either. Its star is the first character of a field, whatever follows.
    either = not given[2].startswith("*") and not given[4].startswith("*")
    made = Cron(
        tuple(part for part, _ in read),  # type: ignore[arg-type]
        minutes,
        hours,
        days,
        months,
        frozenset(day % 7 for day in weekdays),
        either,
    )
    # 2024 is a leap year.
    if not either and min(days) > max(calendar.monthrange(2024, month)[1] for month in months):
        raise ContainerizeError(f"{text!r} is never due: no such month has a day {min(days)}.")
    return made


def _read(field: _Field, text: str) -> tuple[str, frozenset[int]]:
    """A field with its names as numbers, and its values."""
    values: set[int] = set()
    parts = []
    for part in text.split(","):
        match = re.fullmatch(r"(?:(\*)|([0-9a-z]+)(?:-([0-9a-z]+))?)(?:/([0-9]+))?", part, re.I)
        if match is None:
            raise ContainerizeError(f"{part or text!r} is no {field.name}: write a number, '*', '1-5', '*/2' or '1,3'.")
        star, begin, end, step = match.groups()
        if star:
            first, last = field.first, min(field.last, 6) if field.names == DAYS else field.last
        else:
            first = _number(field, begin)
            last = _number(field, end) if end else first
        if step and not (star or end):
            raise ContainerizeError(
                f"{part!r} is no {field.name} for every cron: write '{first}-{field.last}/{step}' for every {step} "
                f"from {first} on."
            )
        if last < first:
            raise ContainerizeError(
                f"{part!r} is no {field.name}, as {begin} comes after {end}: write "
                f"'{first}-{field.last},{field.first}-{last}'."
            )
        width = int(step or 1)
        if not 0 < width <= field.last:
            raise ContainerizeError(f"{part!r} is no {field.name}: its step must be from 1 to {field.last}.")
        values.update(range(first, last + 1, width))
        span = "*" if star else f"{first}-{last}" if end else str(first)
        parts.append(span + (f"/{width}" if step else ""))
    return ",".join(parts), frozenset(values)


def _number(field: _Field, text: str) -> int:
    if text.lower() in field.names:
        return field.names.index(text.lower()) + (field.first if field.names == MONTHS else 0)
    if not text.isdigit() or not field.first <= int(text) <= field.last:
        names = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
        raise ContainerizeError(f"{text!r} is no {field.name}: it must be from {field.first} to {field.last}{names}.")
    return int(text)


def _ranges(values: Iterable[int], count: int, first: int = 0) -> str:
    """Numbers as systemd lists them; "*" for all that there are."""
    listed = sorted(values)
    if len(listed) == count:
        return "*"
    runs: list[list[int]] = []
    for value in listed:
        if runs and runs[-1][-1] == value - 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(f"{run[0]:02}" if len(run) == 1 else f"{run[0]:02}..{run[-1]:02}" for run in runs)
