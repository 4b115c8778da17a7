from __future__ import annotations

import signal
import threading

import pytest

from docker_kernel.guest.interrupts import Interrupts, held


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_what_is_held_is_done_whole() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held():
        interrupt()
        done.append(1)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_held_within_another_tells_that_one() -> None:
    seen: list[int] = []
    with Interrupts() as outer:
        outer.tell = lambda: seen.append(outer.count)
        with held():
            interrupt()
            assert seen == []
        assert seen == [1]


def test_an_error_of_what_is_held_comes_first() -> None:
    with pytest.raises(ValueError, match="own"), held():
        interrupt()
        raise ValueError("own")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_interrupts_did_before_they_do_afterwards(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with Interrupts() as noted:
            if handler is signal.SIG_IGN:
                interrupt()
        assert signal.getsignal(signal.SIGINT) is handler and noted.count == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_interrupts_to_the_main_one() -> None:
    def enter() -> None:
        with held():
            pass

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
