"""Whom an image's containers run as."""

from __future__ import annotations

import pytest

from docker_kernel.kernel.accounts import ids

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001::/home/ada:\n\nbroken:x\nnobody:x:65534:65534:::\n"
GROUP = b"root:x:0:\nstaff:x:50:ada\n"


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("ada", "1000:1001"),
        ("1000", "1000:1001"),
        ("ada:staff", "1000:50"),
        ("ada:7", "1000:7"),
        ("1234", "1234:0"),
        ("1234:staff", "1234:50"),
        ("5:6", "5:6"),
    ],
)
def test_a_user_is_what_an_engine_makes_of_it(user: str, found: str) -> None:
    assert ids(user, PASSWD, GROUP) == found


@pytest.mark.parametrize("user", ["grace", "broken", "ada:nothing"])
def test_a_name_without_an_account_is_known_to_nobody(user: str) -> None:
    assert ids(user, PASSWD, GROUP) is None
