"""TLS in front of a server that speaks none: certificates for a test, and a proxy that shows them.

::

    authority = Authority(tmp_path)
    with TlsProxy(server.port, authority.certificate("localhost", "127.0.0.1")) as proxy:
        url = f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={authority.path}"
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support.proxy import Proxy

A_DAY: Final = datetime.timedelta(days=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class Authority:
    """Signs certificates that are valid for a day. ``path`` is its own certificate, which whoever trusts it is given."""

    def __init__(self, folder: Path, name: str = "an authority of these tests") -> None:
        self._folder = folder
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issued = 0
        signed = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0), [])
        self.path = folder / f"authority-{signed.serial_number:x}.pem"
        self.path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def certificate(self, *names: str, client: bool = False) -> Path:
        """A file with a key and a certificate for host names and addresses, or for a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._sign(_name(names[0]), key.public_key(), x509.BasicConstraints(ca=False, path_length=None), list(names), client)
        self._issued += 1
        path = self._folder / f"certificate-{signed.serial_number:x}.pem"
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
        return path

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, constraints: x509.BasicConstraints, names: list[str], client: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number(), now - A_DAY, now + A_DAY)
        builder = builder.add_extension(constraints, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if constraints.ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        if names:
            purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_address, names))), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class TlsProxy(Proxy):
    """A proxy that speaks TLS to whoever connects, and plain to the server. With ``clients``, they have to show a certificate of it."""

    def __init__(self, port: int, certificate: Path, *, clients: Authority | None = None) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate)
        if clients is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(clients.path)
        super().__init__("127.0.0.1", port)

    async def _welcome(self, client: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, client, ssl=self._context)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
