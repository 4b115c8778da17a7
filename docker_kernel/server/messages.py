"""What the browser sends, checked; and what it is told. Credentials and environment variables are in none of it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from docker_kernel.containerize.plan import Plan
from docker_kernel.errors import ContainerizeError
from docker_kernel.guest.parameters import Parameter

MOST_ROWS = 500
"""Files, packages and the like that are listed one by one; the rest is counted."""

Line = Annotated[str, StringConstraints(max_length=1000)]
Value = Annotated[str, StringConstraints(max_length=10_000)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParameterEdit(_Message):
    """A parameter that is to be in the image, with what the user changed of it.

    Args:
        type, help: None where they stay as they were found.
        default: as it was typed; None where it stays.
    """

    name: Line
    type: Line | None = None
    help: Value | None = None
    default: Value | None = None


class BuildRequest(_Message):
    """What the wizard asks for.

    Args:
        path: the notebook's, as the contents API names it.
        kernel_id: of the kernel that the notebook runs on; "" for none, when the kernelspec's image is taken.
        tag: NAME or NAME:TAG of the image.
        registry: one of the names that the server told; "" for none.
        parameters: those that are to be in the image; None for all, as found.
        exclude: patterns of files that stay out.
        allow: ids of the scan's findings that are no secrets.
    """

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    kernel_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{0,64}$")] = ""
    tag: Line = ""
    registry: Line = ""
    push: bool = False
    keep_outputs: bool = False
    parameters: Annotated[list[ParameterEdit], Field(max_length=1000)] | None = None
    exclude: Annotated[list[Line], Field(max_length=100)] = []
    allow: Annotated[list[Line], Field(max_length=1000)] = []


def parse(body: bytes) -> BuildRequest:
    """A request's body.

    Raises:
        ContainerizeError: it is no asked, in one sentence.
    """
    try:
        return BuildRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ContainerizeError(f"The request cannot be read: {where or 'its body'}: {first['msg']}.") from None


def parameter(one: Parameter) -> dict[str, Any]:
    """A parameter as the wizard shows it."""
    made = one.to_dict()
    return {key: made[key] for key in ("name", "type", "default", "default_source", "required", "help", "choices")}


def review(plan: Plan, packages: list[tuple[str, str]], from_kernel: bool) -> dict[str, Any]:
    """A plan as the wizard shows it.

    Args:
        packages: names and versions.
        from_kernel: the environment is that of a running kernel.
    """
    environment = plan.environment
    return {
        "name": str(plan.name),
        "notebook": plan.path,
        "environment": {
            "reference": environment.reference,
            "image": environment.image.removeprefix("sha256:")[:12],
            "python": ".".join(map(str, environment.python_version)),
            "kernel": environment.kernel.name,
            "running": from_kernel,
        },
        "size": plan.size,
        "parameters": [parameter(one) for one in plan.parameters],
        "notes": list(plan.notes),
        "packages": _rows([{"name": name, "version": version} for name, version in packages]),
        "files": {
            **_rows([{"path": path, "size": size} for path, size in plan.files]),
            "size": sum(size for _, size in plan.files),
        },
        "left_out": _rows([{"path": path, "reason": reason} for path, reason in plan.left_out]),
        "findings": [{"id": one.id, "rule": one.rule, "where": one.where, "hint": one.hint} for one in plan.findings],
    }


def _rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows[:MOST_ROWS], "count": len(rows)}
