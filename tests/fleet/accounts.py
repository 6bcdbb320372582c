# SPDX-License-Identifier: MIT
"""accounts: an operator of NATS, an account and a user, as nsc makes them: keys (nkeys), and what is signed of them (JWT)."""
import base64
import json
import os
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

KINDS = {"operator": 14 << 3, "account": 0, "user": 20 << 3}  # the first letter of the public key: O, A, U
SEED = 18 << 3  # S
LIMITS = dict.fromkeys(("subs", "data", "payload"), -1)
ALL = dict(LIMITS, wildcards=True, **dict.fromkeys(("imports", "exports", "conn", "leaf"), -1))
STORES = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)


def crc16(data):
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xffff
    return crc


def nkey(data):
    return base64.b32encode(data + crc16(data).to_bytes(2, "little")).decode().rstrip("=")


def url64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    def __init__(self, kind):
        self.kind, self.private = kind, Ed25519PrivateKey.generate()
        public = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        secret = self.private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        self.public = nkey(bytes([KINDS[kind]]) + public)
        self.seed = nkey(bytes([SEED | KINDS[kind] >> 5, (KINDS[kind] & 31) << 3]) + secret)

    def sign(self, subject, **claims):
        """The JWT in which this key says something of another one, or of itself."""
        body = dict(jti=os.urandom(16).hex(), iat=int(time.time()), iss=self.public, name=subject.kind, sub=subject.public,
                    nats=dict(claims, type=subject.kind, version=2))
        text = ".".join(url64(json.dumps(one).encode()) for one in (dict(typ="JWT", alg="ed25519-nkey"), body))
        return f"{text}.{url64(self.private.sign(text.encode()))}"


class Accounts:
    """`config`: lines for the server's file."""

    def __init__(self):
        self.operator, self.account, system = Key("operator"), Key("account"), Key("account")
        self.config = "\n".join((
            f"operator: {self.operator.sign(self.operator)}", f"system_account: {system.public}", "resolver: MEMORY", "resolver_preload: {",
            f"  {self.account.public}: {self.operator.sign(self.account, limits={**ALL, **STORES})}",
            f"  {system.public}: {self.operator.sign(system, limits=ALL)}", "}"))

    def credentials(self, path, account=None):
        """Writes the file of a new user of the account, or of one that the servers do not know."""
        user = Key("user")
        jwt = (account or self.account).sign(user, pub={}, sub={}, **LIMITS)
        path.write_text(f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
                        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n")
        return path
