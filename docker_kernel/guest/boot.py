"""Starts ipykernel in the kernel process, with our magics at hand.

Run as a script, in place of `ipykernel_launcher`. All of ours is found before any path of the user's is on `sys.path`,
so that nothing in the workspace can shadow it; the heavier parts are loaded at their first use.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

LIB = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def load_guest() -> None:
    """Make docker_kernel and cloudpickle importable for good, without leaving our folder on `sys.path`."""
    if sys.path[:1] != [LIB]:
        # With PYTHONSAFEPATH the first is no folder of ours, but the user's.
        sys.path[0 : 0 if getattr(sys.flags, "safe_path", False) else 1] = [LIB]
    import docker_kernel.guest  # noqa: F401

    if "cloudpickle" in sys.modules:
        sys.path.pop(0)
        return  # a second copy would not know what is registered with the first
    # The image's own cloudpickle wins, as its jobs will have the same; ours is the last resort.
    sys.path.append(sys.path.pop(0))
    spec = importlib.util.find_spec("cloudpickle")
    if spec is not None and spec.loader is not None:
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules["cloudpickle"] = module
        spec.loader.exec_module(module)
    sys.path.pop()


def run_kernel(arguments: list[str], before_sockets: Callable[[], None] = lambda: None) -> None:
    """Be a kernel until its end.

    Args:
        before_sockets: called before the first of its sockets is bound.
    """
    from ipykernel.kernelapp import IPKernelApp
    from traitlets.config import Config

    from docker_kernel.guest import listening

    class KernelApp(IPKernelApp):  # type: ignore[misc]
        name = IPKernelApp.name

        def parse_command_line(self, argv: list[str] | None = None) -> None:
            if argv is None or len(argv) != 2 or argv[0] != "-f":
                super().parse_command_line(argv)
            else:
                # A parser of all that the command line could say takes an eighth of a forked kernel's start.
                self.argv = argv
                self.extra_args: list[str] = []
                self.cli_config = Config(IPKernelApp=Config(connection_file=argv[1]))
                self.update_config(self.cli_config)
            added = [*self.extra_extensions, "docker_kernel.guest.extension"]
            self.cli_config.merge(Config(IPKernelApp=Config(extra_extensions=added)))
            self.update_config(self.cli_config)

        def init_sockets(self) -> None:
            before_sockets()
            self.inherited = listening.inherited()
            super().init_sockets()

        def _try_bind_socket(self, s: Any, port: int) -> Any:
            listening.take_over(s, port, self.inherited)
            return super()._try_bind_socket(s, port)

    KernelApp.launch_instance(arguments)


def main() -> None:
    load_guest()
    run_kernel(sys.argv[1:])


if __name__ == "__main__":
    main()
