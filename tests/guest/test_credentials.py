"""What looks like a credential, in a URL."""

from __future__ import annotations

import pytest

from docker_kernel.guest.credentials import hide_credentials, without_credentials


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("/data/x", "/data/x"),
        ("volume", "volume"),
        ("s3://bucket/key?versionId=Kx7", "s3://bucket/key?versionId=Kx7"),
        ("https://host:99/x?page=3&raw", "https://host:99/x?page=3&raw"),
        ("https://ada:s3cret@host/x.csv", "https://***@host/x.csv"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("https://host/x?X-Amz-Signature=dead&page=3#beef", "https://host/x?X-Amz-Signature=***&page=3"),
        ("https://host/x?key=12345", "https://host/x?key=***"),
        ("https://host/x?abcdefghijklmnop", "https://host/x?=***"),
        ("zip://a.csv::https://u:p4ss@host/z.zip?sig=aa%2F", "zip://a.csv::https://***@host/z.zip?sig=***"),
    ],
)
def test_a_url_is_shown_without_what_lets_somebody_in(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


def test_an_error_that_quotes_a_part_of_a_url_is_shown_without_it() -> None:
    uri = "https://ada:s3cret@host/x?token=hunter2"
    text = hide_credentials(f"nonnumeric port: 's3cret@host', at {uri}, token hunter2", uri)
    assert text == "nonnumeric port: '***@host', at https://***@host/x?token=***, token ***"
