"""Interpreters that have done their imports.

Most of what a small Python process takes are its imports. `python` gives the path of a program that may be started
where an interpreter is (`[python(), "-c", code]`, `[python(), script, argument]`): it has the process forked from one
that has imported what is named, and passes on descriptors, environment, signals and the exit code. Whatever else an
interpreter can be asked for, a real one does. A test that is about the start of an interpreter starts its own.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

START = """
import sys
sys.path.insert(0, {root!r})
from tests.forking import main
del sys.path[0]
exec(*main())
"""

PROGRAM = """#!{python} -IS
import _signal, _socket, marshal, posix, sys
real, program, arguments = sys.executable, sys.argv[0], sys.argv[1:]
if arguments[:1] == ["-c"] and len(arguments) > 1:
    source, argv, file, first = arguments[1], ["-c", *arguments[2:]], "", ""
elif arguments and arguments[0].endswith(".py"):
    file = arguments[0]
    with open(file, "rb") as opened:
        source = opened.read()
    argv, first = arguments, file.rpartition("/")[0]
else:
    posix.execv(real, [real, *arguments])
connection = _socket.socket(_socket.AF_UNIX)
connection.connect({path!r})
descriptors = []
for name in posix.listdir("/proc/self/fd"):
    try:
        posix.fstat(int(name))
    except OSError:
        continue  # the listing's own
    if int(name) != connection.fileno() and (int(name) < 3 or posix.get_inheritable(int(name))):
        descriptors.append(int(name))
env = {{name.decode(errors="surrogateescape"): value.decode(errors="surrogateescape")
       for name, value in posix.environ.items()}}
request = marshal.dumps({{
    "python": program, "arguments": arguments, "argv": argv, "source": source, "file": file, "first": first,
    "cwd": posix.getcwd(), "env": env, "descriptors": descriptors,
}})
request = len(request).to_bytes(8, "big") + request
numbers = b"".join(one.to_bytes(4, sys.byteorder) for one in descriptors)
sent = connection.sendmsg([request], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)])
if sent < len(request):
    connection.sendall(request[sent:])
def forward(number, frame):
    try:
        connection.send(bytes([number]))
    except OSError:
        pass  # the process has ended, and what it ended with is there to be read
for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2):
    _signal.signal(number, forward)
# What it passed on is the process's alone: a pipe ends when that closes it.
nowhere = posix.open("/dev/null", posix.O_RDWR)
for one in descriptors:
    posix.dup2(nowhere, one) if one < 3 else posix.close(one)
answer = connection.recv(4)
if len(answer) < 4:
    posix._exit(125)
status = int.from_bytes(answer, "big")
if posix.WIFSIGNALED(status):
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if posix.WTERMSIG(status) != _signal.SIGKILL:
        _signal.signal(posix.WTERMSIG(status), _signal.SIG_DFL)
    posix.kill(posix.getpid(), posix.WTERMSIG(status))
posix._exit(posix.WEXITSTATUS(status))
"""

_parents: dict[Path, subprocess.Popen[bytes]] = {}


@functools.cache
def python(*modules: str) -> str:
    """The program that gives processes with these modules imported, of this test process alone.

    Args:
        modules: by name; with a function of it after a colon, that is called, too.
    """
    folder = Path(tempfile.mkdtemp(prefix="dk-warm-"))
    program = folder / "python"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        start = START.format(root=str(Path(__file__).parents[1]))
        # It ends when its standard input does, at the latest with this process.
        parent = subprocess.Popen(
            [sys.executable, "-c", start, str(listener.fileno()), *modules],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
            start_new_session=True,
        )
        _parents[folder] = parent
    program.write_text(PROGRAM.format(python=sys.executable, path=str(folder / "socket")))
    program.chmod(0o700)
    return str(program)


def end() -> None:
    """End what this test process has had forked from, and all that is left of it."""
    for folder, parent in _parents.items():
        parent.communicate()
        shutil.rmtree(folder)
    _parents.clear()
    python.cache_clear()
