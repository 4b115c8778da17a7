"""A terminal on a running kernel, keys included.

`jupyter console --existing` drops the Curve keys of a connection file (jupyter_client 8.10, `init_kernel_client`) and
then waits for ever.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from docker_kernel.errors import DockerKernelError, NotFound
from docker_kernel.kernel.running import RunningKernel


def attach(kernel: RunningKernel, arguments: list[str]) -> None:
    """Open a console on a kernel and return when the user leaves it; the kernel goes on.

    Raises:
        NotFound: the kernel's connection file is not on this machine any more.
        DockerKernelError: jupyter_console is not installed.
    """
    if not kernel.connection_file or not Path(kernel.connection_file).exists():
        raise NotFound(
            f"The connection file of kernel {kernel.kernel_id[:8]} is gone, and its keys with it: only the server "
            "that started it can still talk to it."
        )
    try:
        from jupyter_console.app import ZMQTerminalIPythonApp
    except ImportError:
        raise DockerKernelError(
            "The console needs jupyter_console: install it with `pip install docker-kernel[console]`."
        ) from None

    class Console(ZMQTerminalIPythonApp):  # type: ignore[misc]
        def init_kernel_client(self) -> None:
            self.kernel_client = self.kernel_client_class(
                session=self.session,
                connection_file=self.connection_file,
                parent=self,
                **{
                    name: getattr(self, name)
                    for name in (
                        "ip", "transport", "shell_port", "iopub_port", "stdin_port", "hb_port", "control_port",
                        "curve_publickey", "curve_secretkey",
                    )
                },
            )  # fmt: skip
            self.kernel_client.start_channels()

        def handle_sigint(self, *args: Any) -> None:
            if not self.shell._executing:
                raise KeyboardInterrupt
            self.kernel_client.control_channel.send(self.session.msg("interrupt_request", content={}))

    # jupyter_console's blocking client wants this thread to have an event loop.
    asyncio.set_event_loop(asyncio.new_event_loop())
    sys.argv[0] = "docker-kernel console"
    Console.launch_instance(["--existing", kernel.connection_file, *arguments])
