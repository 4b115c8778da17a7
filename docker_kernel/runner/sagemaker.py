"""SageMaker's contract for training containers: `docker run IMAGE train`.

Folders and files as "How Amazon SageMaker AI provides training information" and "… processes training output" in its
developer guide have them; the SM_* variables as its sagemaker-training toolkit sets them (ENVIRONMENT_VARIABLES.md).
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from docker_kernel.guest.parameters import Text

ROOT = Path("/opt/ml")
MODEL = str(ROOT / "model")
OUTPUT = str(ROOT / "output" / "data")
FAILURE = ROOT / "output" / "failure"
MAX_FAILURE = 1024
"""Characters of the failure file that SageMaker shows."""


def hyperparameters() -> dict[str, Any]:
    """The job's hyperparameters, which are texts; what its SDK wrote as JSON strings is unquoted.

    Those that begin with `sagemaker_` are the SDK's own.
    """
    found = {}
    for name, value in _read("hyperparameters.json").items():
        if name.startswith("sagemaker_"):
            continue
        if isinstance(value, str):
            value = Text(value)
            if value[:1] == value[-1:] == '"':
                with contextlib.suppress(ValueError):
                    value = str(json.loads(value))
        found[name] = value
    return found


def _read(name: str) -> dict[str, Any]:
    try:
        found = json.loads((ROOT / "input" / "config" / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def environment() -> dict[str, str]:
    """The SM_* variables for the notebook."""
    data = ROOT / "input" / "data"
    channels = sorted(path.name for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    resources = _read("resourceconfig.json")
    host = str(resources.get("current_host", "algo-1"))
    hosts = resources.get("hosts") or [host]
    values = hyperparameters()
    found: dict[str, Any] = {
        "SM_MODEL_DIR": MODEL,
        "SM_OUTPUT_DIR": str(ROOT / "output"),
        "SM_OUTPUT_DATA_DIR": OUTPUT,
        "SM_INPUT_DIR": str(ROOT / "input"),
        "SM_INPUT_CONFIG_DIR": str(ROOT / "input" / "config"),
        "SM_CHANNELS": json.dumps(channels),
        "SM_HPS": json.dumps(values),
        "SM_CURRENT_HOST": host,
        "SM_HOSTS": json.dumps(hosts),
        "SM_NUM_CPUS": str(len(os.sched_getaffinity(0))),
        "SM_NUM_GPUS": str(sum(1 for path in Path("/dev").glob("nvidia[0-9]*"))),
        "SM_NETWORK_INTERFACE_NAME": str(resources.get("network_interface_name", "eth0")),
    }
    found.update({f"SM_CHANNEL_{name.upper()}": str(data / name) for name in channels})
    found.update({f"SM_HP_{name.upper()}": value for name, value in values.items()})
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def fail(reason: str) -> None:
    """Leave why the job failed, where SageMaker looks for it."""
    with contextlib.suppress(OSError):
        FAILURE.parent.mkdir(parents=True, exist_ok=True)
        FAILURE.write_text(reason[:MAX_FAILURE], encoding="utf-8")
