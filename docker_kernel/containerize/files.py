"""Which files of a notebook's folder go into its image, and which do not and why; and the notebook itself, cleaned.

Nothing is read but names and sizes, so that a folder which is too large is refused at once.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import itertools
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker_kernel.batch import job_folder
from docker_kernel.batch.package import ignore_rules
from docker_kernel.config import format_size
from docker_kernel.errors import ContainerizeError, JobError
from docker_kernel.guest.credentials import file_holds_credentials

MAX_FILES = 100_000
"""Files that are looked at before a folder is called too large: the whole home of a user, or a machine."""

MAX_RULES = 1000
"""Patterns that each file is held against; a .dockerignore of kernels' making may have tens of thousands."""

LEFT_OUT_NAMES = {
    **dict.fromkeys((".git", ".hg", ".svn", ".bzr"), "version control"),
    **dict.fromkeys(
        ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".cache", ".tox", ".nox"), "a cache"
    ),
    **dict.fromkeys((".ipynb_checkpoints", ".virtual_documents"), "Jupyter's copies of notebooks"),
    **dict.fromkeys((".venv", ".virtualenv"), "a virtual environment: the kernel's packages are in the image anyway"),
    **dict.fromkeys((".DS_Store", "Thumbs.db", ".Trash", "lost+found"), "the file manager's"),
    ".ipython": "a history of what was typed",
    "node_modules": "packages of npm",
}
"""Names that stay out wherever they are, and the reason a user is told."""

CREDENTIAL = "it looks like a credential by its name"
IGNORED = ".dockerignore names it"
NOTEBOOK = "another notebook, whose outputs would be in the image"
RESULTS = "results of an earlier run"


@dataclass(frozen=True)
class Chosen:
    """What of a folder goes into an image.

    Args:
        files: names relative to `root`, with sizes in bytes; empty folders are among them.
        left_out: what does not, with the reason; a folder that stays out whole is there once, with a / at its end.
    """

    files: list[tuple[str, int]]
    left_out: list[tuple[str, str]]
    root: Path


def _outside(path: str) -> bool:
    """Whether a relative path, without needless parts, leads out of where it begins."""
    return path == ".." or path.startswith("../")


class Rule:
    """A line of a .dockerignore, or a pattern of --include and --exclude: all have that file's grammar.

    It matches a path, and with it all below (https://docs.docker.com/build/concepts/context/#dockerignore-files).
    """

    def __init__(self, text: str, back: bool = False) -> None:
        text = text.strip()
        self.back = back or text.startswith("!")
        pattern = os.path.normpath(text.removeprefix("!").strip().lstrip("/") or ".")
        self.text = pattern
        self.outside = _outside(pattern)
        self.whole = pattern == "."
        self._ways = [[]] if self.whole else _ways(pattern)
        self._stem = re.split(r"[*?\[\\]", pattern)[0]
        self.plain = self._stem == pattern

    def matches(self, path: str) -> bool:
        if not self.whole and not path.startswith(self._stem):
            return False  # nearly all end here
        names = path.split("/")
        return any(_leads(way, names) for way in self._ways)

    def may_match_below(self, folder: str) -> bool:
        """Whether something in a folder may match."""
        return self.whole or self._stem.startswith(f"{folder}/") or f"{folder}/".startswith(self._stem)


_Way = list[Callable[[str], object] | None]
"""What matches the names of a path, one after the other; None is any number of them."""


def _leads(way: _Way, names: Sequence[str]) -> bool:
    """Whether a way matches a path or a folder above it, in as many steps as it has parts and the path has names."""
    reached = {0}
    for part in way:
        if part is None:
            reached = set(range(min(reached), len(names)))
        else:
            reached = {at + 1 for at in reached if at < len(names) and part(names[at])}
        if not reached:
            return False
    return True


def _ways(pattern: str) -> list[_Way]:
    """The ways in which a pattern can match: each ** in a name may end that name, or not."""
    names = pattern.split("/")
    if set(names[-1]) == {"*"}:
        names[-1] = "*"  # something in a folder, and with it all below
    return [
        [None if set(name) == {"*"} and len(name) > 1 else _name(name) for name in itertools.chain(*way)]
        for way in itertools.product(*map(_spread, names))
    ]


def _spread(name: str) -> list[list[str]]:
    """A name of a pattern without ** in it: `a**b` is `a*b`, or `a*`, any folders and `*b`."""
    found = re.search(r"(?<!\\)\*{2,}", name)
    if found is None or found[0] == name:
        return [[name]]
    head, rest = name[: found.start()], _spread(f"*{name[found.end() :]}")
    return [[f"{head}{first}", *more] for first, *more in rest] + [[f"{head}*", "**", *way] for way in rest]


def _name(pattern: str) -> Callable[[str], object]:
    """What matches one name: Go's filepath.Match. Many * take no longer, as each settles at its first match."""
    pieces, at = [""], 0
    while at < len(pattern):
        one = pattern[at]
        closed = pattern.find("]", at + 2) if one == "[" else -1
        if one == "*":
            pieces.append("")
        elif one == "?":
            pieces[-1] += "."
        elif closed > 0:
            inner = pattern[at + 1 : closed].replace("\\", "\\\\").replace("[", "\\[")
            pieces[-1] += f"[{inner}]"
            at = closed
        else:
            at += one == "\\" and at + 1 < len(pattern)
            pieces[-1] += re.escape(pattern[at])
        at += 1
    if len(pieces) == 1:
        return re.compile(pieces[0], re.DOTALL).fullmatch
    first, *between, last = pieces
    # A group that was found looking ahead is not tried again: what atomic groups are, which Python 3.10 has not.
    middle = "".join(f"(?=(?P<g{number}>.*?{piece}))(?P=g{number})" for number, piece in enumerate(between))
    return re.compile(f"{first}{middle}.*{last}", re.DOTALL).fullmatch


def choose(notebook: Path, include: Iterable[str], exclude: Iterable[str], budget: int) -> Chosen:
    """What goes into the image of a notebook: the notebook, and what is in its folder.

    Args:
        include: patterns of what goes in though a rule leaves it out. A credential must be named in full.
        exclude: patterns of what stays out, besides what .dockerignore names; `include` wins.
        budget: bytes that all of it may have.

    Raises:
        ContainerizeError: it is too large, and what makes it so; or a pattern cannot be, or includes nothing.
    """
    root = notebook.parent
    include, exclude = list(include), list(exclude)
    try:
        given = ignore_rules(root / ".dockerignore")
    except JobError as error:
        raise ContainerizeError(str(error)) from None
    if max(map(len, (given, include, exclude))) > MAX_RULES:
        raise ContainerizeError(
            f"{root / '.dockerignore'}, --include and --exclude may each have {MAX_RULES:,} patterns at most: name "
            "folders instead of the files in them."
        )
    walk = _Walk(root, notebook.name, _rules("exclude", exclude), _rules("include", include), _parsed(given))
    if not notebook.is_file():
        raise ContainerizeError(f"There is no notebook {notebook}.")
    walk.run()
    walk.check(budget)
    return Chosen(sorted(walk.files.items()), sorted(walk.left_out.items()), root)


def _parsed(lines: Iterable[str]) -> list[Rule]:
    made = []
    for line in lines:
        try:
            made.append(Rule(line))
        except re.error:
            continue  # as Docker does not match it, either
    return made


def _rules(option: str, patterns: Iterable[str]) -> list[Rule]:
    made = []
    for pattern in patterns:
        try:
            rule = Rule(pattern, back=option == "include")
        except re.error as error:
            raise ContainerizeError(f"--{option} {pattern}: that is no pattern ({error}).") from None
        if rule.outside or len(re.findall(r"\*+", pattern)) > 4:
            why = "has more than 4 wildcards" if not rule.outside else "leads out of the notebook's folder"
            raise ContainerizeError(f"--{option} {pattern}: it {why}; a pattern is relative to that folder.")
        made.append(rule)
    return made


@dataclass
class _Walk:
    """One look at a folder."""

    root: Path
    notebook: str
    exclude: list[Rule]
    include: list[Rule]
    ignore: list[Rule]
    files: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    seen: int = 0

    def run(self) -> None:
        ours = job_folder.root()
        self._ours = str(ours.relative_to(self.root)) if ours.is_relative_to(self.root) else ""
        folders: list[tuple[str, str]] = [("", "")]
        while folders and self.seen <= MAX_FILES:
            folder, reason = folders.pop()
            folders += self._folder(folder, reason)
        for name, target in self.links.items():
            self._link(name, target)
        while dangling := [name for name in self.links if name in self.files and self._left_out_on_the_way(name)]:
            for name in dangling:
                del self.files[name]
                self._leave_out(name, f"a link to {self.links[name]}, over a link that is left out", False)
        unused = [rule.text for rule in self.include if rule.text not in self.used]
        if unused and self.seen <= MAX_FILES:
            raise ContainerizeError(f"--include {unused[0]}: there is no such file in {self.root}.")

    def _folder(self, folder: str, reason: str) -> Iterator[tuple[str, str]]:
        """Look at what is in a folder; gives the folders in it that are to be looked at, with why they stay out."""
        try:
            with os.scandir(self.root / folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self._leave_out(folder or ".", error.strerror or "it cannot be listed", True)
            return
        names = {entry.name for entry in entries}
        if folder and not reason:
            reason = self._by_content(names)
            if reason and not self._wanted_below(folder, reason):
                self._leave_out(folder, reason, True)
                return
        taken = len(self.files)
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            self.seen += 1
            try:
                path.encode()
            except UnicodeEncodeError:
                self._leave_out(os.fsencode(path).decode("utf-8", "backslashreplace"), "its name is no UTF-8", False)
                continue
            why = self._reason(path, reason)
            if not entry.is_dir(follow_symlinks=False):
                self._file(entry, path, why)
            elif not why or self._wanted_below(path, why):
                if why:
                    self.left_out[f"{path}/"] = why
                yield path, why
            else:
                self._leave_out(path, why, True)
        if folder and not names and not reason and taken == len(self.files):
            self.files[folder] = 0

    def _file(self, entry: os.DirEntry[str], path: str, why: str) -> None:
        try:
            status = entry.stat(follow_symlinks=path == self.notebook)
            if why:
                self._leave_out(path, why, False)
            elif stat.S_ISLNK(status.st_mode):
                self.links[path] = str(Path(entry.path).readlink())
            elif not stat.S_ISREG(status.st_mode):
                self._leave_out(path, "it is no file (a pipe, a socket or a device)", False)
            elif not os.access(entry.path, os.R_OK):
                self._leave_out(path, "you may not read it", False)
            else:
                self.files[path] = status.st_size
        except OSError as error:
            self._leave_out(path, error.strerror or str(error), False)

    def _reason(self, path: str, above: str) -> str:
        """Why a path stays out; "" if it goes in."""
        if path == self.notebook:
            return ""
        name = path.rpartition("/")[2]
        credential = file_holds_credentials(str(self.root), path)
        for rule in self.include:
            if rule.matches(path):
                self.used.add(rule.text)
                if rule.plain or not credential:
                    return ""
        if credential:
            return CREDENTIAL
        if (above and above != IGNORED) or name in LEFT_OUT_NAMES:
            return LEFT_OUT_NAMES.get(name) or above
        if path == self._ours:
            return "what jobs left here"
        if any(rule.matches(path) for rule in self.exclude):
            return "--exclude names it"
        ignored = False
        for rule in self.ignore:
            if rule.back == ignored and rule.matches(path):
                ignored = not rule.back
        if ignored:
            return IGNORED
        return NOTEBOOK if name.endswith(".ipynb") else ""

    def _by_content(self, names: set[str]) -> str:
        """Why a folder stays out for what is in it."""
        if "pyvenv.cfg" in names or "conda-meta" in names:
            return LEFT_OUT_NAMES[".venv"]
        return RESULTS if "output.ipynb" in names and names & {"output.html", "run.json"} else ""

    def _wanted_below(self, folder: str, reason: str) -> bool:
        """Whether a rule may bring back something in a folder that stays out."""
        back = [rule for rule in self.ignore if rule.back] if reason == IGNORED else []
        return any(rule.may_match_below(folder) for rule in (*self.include, *back))

    def _leave_out(self, path: str, reason: str, folder: bool) -> None:
        above = path.rpartition("/")[0]
        while above:
            if self.left_out.get(f"{above}/") == reason:
                return  # told with its folder
            above = above.rpartition("/")[0]
        self.left_out[f"{path}/" if folder else path] = reason

    def _link(self, name: str, target: str) -> None:
        """Decide on a link: it goes in as a link, if what it leads to does."""
        real = self.root.resolve()
        if target.startswith("/"):
            self._leave_out(name, f"a link to {target}, a path that the image has not: copy the file here", False)
            return
        try:
            found = (self.root / name).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            loop = isinstance(error, RuntimeError) or error.errno == errno.ELOOP
            self._leave_out(name, "a link to itself" if loop else f"a link to {target}, which is not there", False)
            return
        if not found.is_relative_to(real) or any(_outside(step) for step in self._steps(name)):
            self._leave_out(name, f"a link to {target}, out of the folder: copy the file here", False)
            return
        inner = str(found.relative_to(real))
        if inner == "." or inner in self.files or any(path.startswith(f"{inner}/") for path in self.files):
            self.files[name] = 0
        else:
            self._leave_out(name, f"a link to {target}, which is left out", False)

    def _steps(self, name: str) -> list[str]:
        """The paths, relative to the root, that a link leads over as it is written, with what it leads to."""
        parts = [*name.split("/")[:-1], *self.links[name].split("/")]
        return [os.path.normpath("/".join(parts[:count])) for count in range(1, len(parts) + 1)]

    def _left_out_on_the_way(self, name: str) -> bool:
        return any(step in self.links and step not in self.files for step in self._steps(name))

    def check(self, budget: int) -> None:
        """Raise ContainerizeError if it is too much, with what is the largest."""
        total = sum(self.files.values())
        if self.seen <= MAX_FILES and total <= budget:
            return
        sizes: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for path, size in self.files.items():
            top, below, _ = path.partition("/")
            if below:
                sizes[f"{top}/"] += size
                counts[f"{top}/"] += 1
            else:
                sizes[path] += size
        how = f"name what a run does not need in {self.root}/.dockerignore, or with --exclude"
        if self.seen > MAX_FILES:
            many = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(3))
            raise ContainerizeError(
                f"The folder {self.root} has more than {MAX_FILES:,} files, too many for an image (most are in "
                f"{many}): {how}, or move the notebook to a folder of its own."
            )
        largest = heapq.nlargest(3, self.files.items(), key=lambda item: item[1])
        folders = ", ".join(f"{name} ({format_size(size)})" for name, size in sizes.most_common(3))
        files = ", ".join(f"{name} ({format_size(size)})" for name, size in largest if size and name not in sizes)
        raise ContainerizeError(
            f"The folder {self.root} has {format_size(total)}, and an image may be given {format_size(budget)}: the "
            f"largest are {folders}{f'; files: {files}' if files else ''}. {how[0].upper()}{how[1:]}; large data is "
            "better mounted, or fetched by the notebook."
        )


_RUN_METADATA = ("trusted", "execution", "ExecuteTime", "papermill", "collapsed", "scrolled", "signature", "widgets")
"""What programs note in a notebook's or cell's metadata of how it was run, shown or trusted."""


def clean(notebook: Mapping[str, Any], keep_outputs: bool) -> dict[str, Any]:
    """A notebook as it goes into an image: in nbformat 4, without what its last run left in it. Ids and tags stay.

    Args:
        keep_outputs: whether outputs, execution counts and the state of widgets stay, too.

    Raises:
        ContainerizeError: it is no valid notebook.
    """
    made = _upgraded(notebook)
    dropped = set(_RUN_METADATA) - ({"widgets", "collapsed", "scrolled", "execution"} if keep_outputs else set())
    used: set[str] = set()
    cells = []
    for number, cell in enumerate(made["cells"], 1):
        if not isinstance(cell, Mapping) or cell.get("cell_type") not in ("code", "markdown", "raw"):
            raise ContainerizeError(f"Cell {number} of the notebook is none: it has no type (code, markdown or raw).")
        source = cell.get("source", "")
        if not isinstance(source, str) and not (
            isinstance(source, list) and all(isinstance(one, str) for one in source)
        ):
            raise ContainerizeError(f"The source of cell {number} of the notebook is no text.")
        one = {key: value for key, value in cell.items() if key not in ("outputs", "execution_count", "prompt_number")}
        one["source"] = source if isinstance(source, str) else "".join(source)
        metadata = cell.get("metadata")
        one["metadata"] = _without(metadata if isinstance(metadata, Mapping) else {}, dropped)
        if cell["cell_type"] == "code":
            one["outputs"] = list(cell.get("outputs") or []) if keep_outputs else []
            one["execution_count"] = cell.get("execution_count") if keep_outputs else None
        if made["nbformat_minor"] >= 5:
            one["id"] = _id(one, number, used)
        cells.append(one)
    metadata = made.get("metadata")
    return {
        "cells": cells,
        "metadata": _completed(_without(metadata if isinstance(metadata, Mapping) else {}, dropped)),
        "nbformat": 4,
        "nbformat_minor": made["nbformat_minor"],
    }


def _without(metadata: Mapping[str, Any], dropped: set[str]) -> dict[str, Any]:
    kept = {key: value for key, value in metadata.items() if key not in dropped}
    if "tags" in kept:
        kept["tags"] = _tags(kept)
    if isinstance(kept.get("jupyter"), Mapping):
        kept["jupyter"] = {key: value for key, value in kept["jupyter"].items() if key != "outputs_hidden"}
    return {key: value for key, value in kept.items() if key != "jupyter" or value}


def _tags(metadata: Mapping[str, Any]) -> list[str]:
    """A cell's tags: what else stands among them is none, and is not valid in nbformat."""
    tags = metadata.get("tags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _completed(metadata: dict[str, Any]) -> dict[str, Any]:
    """A notebook's metadata with what nbformat's schema requires of it, which other tools insist on."""
    made = {**metadata}
    if "kernelspec" in made:
        given = made["kernelspec"] if isinstance(made["kernelspec"], Mapping) else {}
        texts = {key: given[key] for key in ("name", "display_name") if isinstance(given.get(key), str)}
        made["kernelspec"] = {**given, "name": "", "display_name": "", **texts}
    language = made.get("language_info")
    if language is not None and not (isinstance(language, Mapping) and isinstance(language.get("name"), str)):
        del made["language_info"]  # the kernel will tell
    return made


def _id(cell: Mapping[str, Any], number: int, used: set[str]) -> str:
    """A cell's id; where it is missing or another's, one that is the same each time."""
    given = cell.get("id")
    if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", given) or given in used:
        given = hashlib.sha256(f"{number}\0{cell['source']}".encode(errors="replace")).hexdigest()[:12]
    used.add(given)
    return given


def _upgraded(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook in nbformat 4, in whose older minor versions it stays, as nbconvert leaves it."""
    major, minor = notebook.get("nbformat", 3 if "worksheets" in notebook else 4), notebook.get("nbformat_minor", 0)
    if not isinstance(major, int) or not isinstance(minor, int) or not 1 <= major <= 4:
        raise ContainerizeError(
            f"The notebook is in format {major}, which nobody here can read: save it in nbformat 4."
        )
    if major == 4:
        cells = notebook.get("cells")
        if not isinstance(cells, list):
            raise ContainerizeError("The notebook has no cells.")
        return {**notebook, "cells": cells, "nbformat_minor": min(minor, 5)}
    import nbformat  # takes a quarter of a second, for the few notebooks of 2014 and before

    try:
        made = nbformat.reads(json.dumps(notebook), as_version=4)
    except Exception as error:
        raise ContainerizeError(f"The notebook is in format {major} and cannot be brought to 4: {error}.") from None
    whole: dict[str, Any] = json.loads(json.dumps(made))
    for cell in whole["cells"]:
        cell.pop("id", None)  # drawn by lot
    return whole


def digest(notebook: Mapping[str, Any]) -> str:
    """What a notebook says, as one digest: it stays when it is run, saved anew, or its cells get other ids."""
    cells: Sequence[Any] = notebook.get("cells") or ()
    metadata = notebook.get("metadata") or {}
    kernel, language = metadata.get("kernelspec") or {}, metadata.get("language_info") or {}
    said = [
        [
            cell.get("cell_type"),
            source if isinstance(source := cell.get("source", ""), str) else "".join(source),
            sorted(_tags(cell.get("metadata") or {})),
            cell.get("attachments") or {},
        ]
        for cell in cells
    ]
    whole = json.dumps([kernel.get("name") or "", language.get("name") or "", said], sort_keys=True)
    return f"sha256:{hashlib.sha256(whole.encode()).hexdigest()}"
