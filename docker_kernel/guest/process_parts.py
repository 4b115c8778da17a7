"""The settings and random states of a process, a few lines for each library that has some.

To add a library, write how its settings are read and how one is set, and a `Part` for it in `PARTS`; docs/jobs.md has
its table from there. Nothing here is called for a library that is not imported.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

from docker_kernel.guest import ipython_state, logging_state, warnings_state
from docker_kernel.guest.credentials import looks_secret
from docker_kernel.guest.unable import Unable

__all__ = ["PARTS", "Part", "Unable"]


@dataclass(frozen=True)
class Part:
    """What one library has.

    Args:
        name: what messages call it.
        library: the module that is given to what follows, once that is imported.
        what: what travels, for the documentation.
        read: all settings by name: plain values as far as possible, and `Unable` for what cannot travel.
        set: sets one to a value that was read.
        forget: undoes a setting that is no more.
        needs: which module must be imported before a setting can be set, where it is another than the library.
        generators: the random generators whose states these are.
        only_home: on the way there, it goes with the rest of the state.
    """

    name: str
    library: str
    what: str
    read: Callable[[Any], dict[str, Any]]
    set: Callable[[Any, str, Any], object]
    forget: Callable[[Any, str], object] | None = None
    needs: Callable[[str], str] = lambda name: ""
    generators: Callable[[Any], list[Any]] | None = None
    only_home: bool = False


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings that libraries give when a setting of theirs is read that will go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# The operating system

_VARIABLE = "variable "


def _read_os(os: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"sys.path": list(sys.path)}
    try:
        found["current folder"] = os.getcwd()
    except OSError:
        pass  # it was removed
    for name, value in os.environ.items():
        secret = looks_secret(name, value)
        kept = Unable("environment variable", "it looks like a credential", "set it here, too", hash(value))
        found[_VARIABLE + name] = kept if secret else value
    return found


def _set_os(os: Any, name: str, value: Any) -> None:
    if name == "sys.path":
        sys.path[:] = value
    elif name == "current folder":
        os.chdir(value)
    else:
        os.environ[name[len(_VARIABLE) :]] = value


def _forget_os(os: Any, name: str) -> None:
    if name.startswith(_VARIABLE):
        os.environ.pop(name[len(_VARIABLE) :], None)


# Python


class _Setting(NamedTuple):
    read: Callable[[], Any]
    set: Callable[[Any], object]


def _umask() -> int:
    """Read where reading it does not change it for a moment, which another thread's new file might meet."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))


_PYTHON = {
    "recursion limit": _Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    "switch interval": _Setting(sys.getswitchinterval, sys.setswitchinterval),
    "garbage collection": _Setting(gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    "garbage collection's thresholds": _Setting(gc.get_threshold, lambda numbers: gc.set_threshold(*numbers)),
    "bytecode": _Setting(lambda: sys.dont_write_bytecode, lambda off: setattr(sys, "dont_write_bytecode", off)),
    "umask": _Setting(_umask, os.umask),
    # Its environment variable has travelled.
    "time zone": _Setting(lambda: (time.tzname, time.timezone), lambda _: time.tzset()),
}
if hasattr(sys, "set_int_max_str_digits"):
    _PYTHON["digits of a number's text"] = _Setting(sys.get_int_max_str_digits, sys.set_int_max_str_digits)


def _read_python(sys: Any) -> dict[str, Any]:
    found = {name: one.read() for name, one in _PYTHON.items()}
    if hasattr(sys, "tracebacklimit"):
        found["traceback limit"] = sys.tracebacklimit
    return found


def _set_python(sys: Any, name: str, value: Any) -> None:
    if name == "traceback limit":
        sys.tracebacklimit = value
    else:
        _PYTHON[name].set(value)


def _forget_python(sys: Any, name: str) -> None:
    del sys.tracebacklimit


def _read_decimal(decimal: Any) -> dict[str, Any]:
    context = decimal.getcontext()
    found = {name: getattr(context, name) for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")}
    return {**found, "traps": [signal.__name__ for signal, on in context.traps.items() if on]}


def _set_decimal(decimal: Any, name: str, value: Any) -> None:
    context = decimal.getcontext()
    if name == "traps":
        for signal in context.traps:
            context.traps[signal] = signal.__name__ in value
    else:
        setattr(context, name, value)


_CATEGORIES = ("LC_CTYPE", "LC_COLLATE", "LC_TIME", "LC_MONETARY", "LC_MESSAGES", "LC_NUMERIC")


def _read_locale(locale: Any) -> dict[str, Any]:
    return {name: locale.setlocale(getattr(locale, name)) for name in _CATEGORIES if hasattr(locale, name)}


def _set_locale(locale: Any, name: str, value: str) -> None:
    try:
        locale.setlocale(getattr(locale, name), value)
    except locale.Error:
        raise ValueError("there is no locale %s" % value) from None


# numpy


def _read_numpy(numpy: Any) -> dict[str, Any]:
    found = {"print %s" % name: value for name, value in numpy.get_printoptions().items()}
    found.update(("error %s" % name, value) for name, value in numpy.geterr().items())
    return {**found, "errorcall": numpy.geterrcall(), "buffer size": numpy.getbufsize()}


def _set_numpy(numpy: Any, name: str, value: Any) -> None:
    kind, _, option = name.partition(" ")
    if kind == "print":
        numpy.set_printoptions(**{option: value})
    elif kind == "error":
        numpy.seterr(**{option: value})
    elif kind == "errorcall":
        numpy.seterrcall(value)
    else:
        numpy.setbufsize(value)


def _set_numpy_random(numpy_random: Any, name: str, state: Any) -> None:
    kind = state["bit_generator"]
    if kind != numpy_random.get_state(legacy=False)["bit_generator"]:
        numpy_random.set_bit_generator(getattr(numpy_random, kind)())
    numpy_random.set_state(state)


# pandas, polars


def _read_pandas(pandas: Any) -> dict[str, Any]:
    with _quietly():
        return {name: pandas.get_option(name) for name in list(pandas._config.config._registered_options)}


def _set_pandas(pandas: Any, name: str, value: Any) -> None:
    with _quietly():
        pandas.set_option(name, value)


# matplotlib

_BACKENDS = frozenset(
    {"backend", "backend_fallback", "interactive", "toolbar", "timezone", "webagg.port", "webagg.address",
     "webagg.port_retries", "webagg.open_in_browser", "tk.window_focus", "savefig.directory", "macosx.window_mode"}
)  # fmt: skip
"""What is about the windows of where the process runs; to read the backend would choose one."""


def _read_matplotlib(matplotlib: Any) -> dict[str, Any]:
    return {name: value for name, value in dict.items(matplotlib.rcParams) if name not in _BACKENDS}


def _set_matplotlib(matplotlib: Any, name: str, value: Any) -> None:
    with _quietly():
        matplotlib.rcParams[name] = value


_INLINE = ("figure_formats", "print_figure_kwargs", "close_figures", "rc")
_MIME_TYPES = {"png": "image/png", "jpg": "image/jpeg", "svg": "image/svg+xml", "pdf": "application/pdf"}


def _read_inline(config: Any) -> dict[str, Any]:
    kind = config.InlineBackend
    backend = kind.instance() if kind.initialized() else kind()
    found = {name: getattr(backend, name) for name in _INLINE}
    # set_matplotlib_formats does not tell the backend.
    shown = _shown_formats(backend.shell) if kind.initialized() else set()
    found["figure_formats"] = sorted(shown or found["figure_formats"])
    return found


def _shown_formats(shell: Any) -> set[str]:
    figure = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
    found = set()
    for name, mime_type in _MIME_TYPES.items() if shell is not None and figure is not None else ():
        printer = shell.display_formatter.formatters[mime_type].type_printers.get(figure)
        if printer is not None:
            function = getattr(printer, "func", printer)
            retina = name == "png" and getattr(function, "__name__", "") == "retina_figure"
            found.add("retina" if retina else name)
    return found


def _set_inline(config: Any, name: str, value: Any) -> None:
    ipython = sys.modules.get("IPython")
    backend = config.InlineBackend.instance(parent=ipython.get_ipython() if ipython is not None else None)
    if name == "figure_formats":
        backend.figure_formats = set(value)
        backend._update_figure_formatters()
    else:
        setattr(backend, name, value)


# torch

_TORCH_PRINT = ("precision", "threshold", "edgeitems", "linewidth", "sci_mode")


def _read_torch(torch: Any) -> dict[str, Any]:
    found = {
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ],
        "grad mode": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "cudnn benchmark": torch.backends.cudnn.benchmark,
        "cudnn deterministic": torch.backends.cudnn.deterministic,
    }
    if hasattr(torch, "get_default_device"):
        found["default device"] = str(torch.get_default_device())
    options = torch._tensor_str.PRINT_OPTS
    return {**found, **{"print %s" % name: getattr(options, name) for name in _TORCH_PRINT}}


def _set_torch(torch: Any, name: str, value: Any) -> None:
    if name.startswith("print "):
        setattr(torch._tensor_str.PRINT_OPTS, name[6:], value)
    elif name.startswith("cudnn "):
        setattr(torch.backends.cudnn, name[6:], value)
    elif name == "deterministic":
        torch.use_deterministic_algorithms(value[0], warn_only=value[1])
    else:
        {
            "default dtype": torch.set_default_dtype,
            "threads": torch.set_num_threads,
            "grad mode": torch.set_grad_enabled,
            "anomaly detection": torch.autograd.set_detect_anomaly,
            "matmul precision": torch.set_float32_matmul_precision,
            "default device": torch.set_default_device,
        }[name](value)


def _read_torch_random(torch: Any) -> dict[str, Any]:
    found = {"cpu": bytes(torch.get_rng_state().tolist())}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            found["cuda:%d" % number] = bytes(state.tolist())
    return found


def _set_torch_random(torch: Any, name: str, value: bytes) -> None:
    state = torch.tensor(list(value), dtype=torch.uint8, device="cpu")
    if name == "cpu":
        torch.set_rng_state(state)
    elif torch.cuda.is_available() and int(name[5:]) < torch.cuda.device_count():
        torch.cuda.set_rng_state(state, name)


def _torch_generators(torch: Any) -> list[Any]:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [torch.default_generator, *(torch.cuda.default_generators if cuda else ())]


PARTS = [
    Part(
        "random",
        "random",
        "The state of the generator behind `random.random` and the others.",
        lambda random: {"state": random.getstate()},
        lambda random, name, state: random.setstate(state),
        generators=lambda random: [random._inst],
    ),
    Part(
        "logging",
        "logging",
        "Levels, filters and `propagate` of all loggers; handlers that write to `sys.stdout`, `sys.stderr` or files, "
        "or that can be pickled, with levels and formats; `captureWarnings`, `disable`, names of levels.",
        logging_state.read,
        logging_state.set_one,
        logging_state.forget,
        needs=logging_state.needs,
    ),
    Part(
        "warnings",
        "warnings",
        "The filters; a `showwarning` or `formatwarning` of the notebook's.",
        warnings_state.read,
        warnings_state.set_one,
        warnings_state.forget,
    ),
    Part(
        "os",
        "os",
        "Environment variables, but those that look like [credentials](#secrets); the current folder; `sys.path`.",
        _read_os,
        _set_os,
        _forget_os,
        only_home=True,
    ),
    Part(
        "Python",
        "sys",
        "Recursion limit, switch interval, garbage collection, `umask`, `tracebacklimit`, `dont_write_bytecode`, the "
        "most digits of a number's text, the time zone (`time.tzset`).",
        _read_python,
        _set_python,
        _forget_python,
    ),
    Part(
        "decimal",
        "decimal",
        "The context: precision, rounding, limits and traps.",
        _read_decimal,
        _set_decimal,
    ),
    Part("locale", "locale", "Each category's locale, where the job's image has it.", _read_locale, _set_locale),
    Part(
        "socket",
        "socket",
        "The default timeout.",
        lambda socket: {"default timeout": socket.getdefaulttimeout()},
        lambda socket, name, value: socket.setdefaulttimeout(value),
    ),
    Part(
        "csv",
        "csv",
        "The limit of a field's size.",
        lambda csv: {"field size limit": csv.field_size_limit()},
        lambda csv, name, value: csv.field_size_limit(value),
    ),
    Part(
        "calendar",
        "calendar",
        "The first day of the week.",
        lambda calendar: {"first weekday": calendar.firstweekday()},
        lambda calendar, name, value: calendar.setfirstweekday(value),
    ),
    Part(
        "multiprocessing",
        "multiprocessing",
        "The start method.",
        lambda multiprocessing: {"start method": multiprocessing.get_start_method(allow_none=True)},
        lambda multiprocessing, name, value: multiprocessing.set_start_method(value, force=True),
    ),
    Part(
        "IPython",
        "IPython",
        "Loaded extensions, aliases, magics that the notebook defined; what `%xmode`, `%precision`, `%pprint`, "
        "`%automagic`, `%autocall` and `ast_node_interactivity` set; `from __future__ import …`.",
        ipython_state.read,
        ipython_state.set_one,
        ipython_state.forget,
    ),
    Part(
        "numpy",
        "numpy",
        "Print options, `seterr`, `seterrcall`, `setbufsize`.",
        _read_numpy,
        _set_numpy,
    ),
    Part(
        "numpy.random",
        "numpy.random",
        "The state of the generator behind `numpy.random.normal` and the others.",
        lambda numpy_random: {"state": numpy_random.get_state(legacy=False)},
        _set_numpy_random,
        generators=lambda numpy_random: [numpy_random.mtrand._rand],
    ),
    Part("pandas", "pandas", "All options.", _read_pandas, _set_pandas),
    Part(
        "polars",
        "polars",
        "`polars.Config`.",
        lambda polars: {"config": polars.Config.save()},
        lambda polars, name, value: polars.Config.load(value),
    ),
    Part(
        "matplotlib",
        "matplotlib",
        "`rcParams`, and so styles and seaborn's themes; not the backend.",
        _read_matplotlib,
        _set_matplotlib,
    ),
    Part(
        "matplotlib_inline",
        "matplotlib_inline.config",
        "The inline backend's figure formats and its other settings.",
        _read_inline,
        _set_inline,
    ),
    Part(
        "sklearn",
        "sklearn",
        "`sklearn.set_config`.",
        lambda sklearn: dict(sklearn.get_config()),
        lambda sklearn, name, value: sklearn.set_config(**{name: value}),
    ),
    Part(
        "torch",
        "torch",
        "Default dtype and device, threads, deterministic algorithms, grad mode, anomaly detection, matmul precision, "
        "`cudnn.benchmark` and `.deterministic`, print options.",
        _read_torch,
        _set_torch,
    ),
    Part(
        "torch's random state",
        "torch",
        "The states of the generators of the CPU and of the GPUs in use.",
        _read_torch_random,
        _set_torch_random,
        generators=_torch_generators,
    ),
]
