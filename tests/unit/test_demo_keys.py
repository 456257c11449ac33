"""The demonstration's certificates hold on hosts whose Python is strict about them (Debian 13)."""

from __future__ import annotations

import ssl
from pathlib import Path

from demo import keys


def test_the_certificates_are_as_rfc_5280_demands(tmp_path: Path) -> None:
    made = keys.make(tmp_path / "keys", "images.example.com")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(made.tls_certificate, made.tls_key)
    ours = ssl.create_default_context(cafile=made.ca)
    ours.verify_flags |= ssl.VERIFY_X509_STRICT
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        ours.wrap_bio(one, other, server_hostname="images.example.com"),
        theirs.wrap_bio(other, one, server_side=True),
    ]
    for end in ends * 2:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert ends[0].version()
    assert ends[0].getpeercert()
