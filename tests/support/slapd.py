"""A real OpenLDAP server for tests: its own configuration, people and TLS, on loopback, in a temporary directory.

It is as careless as a server may be (a name with an empty password binds as nobody, and succeeds) but takes no password
without TLS, and refers every search to another server as well.

Needs the programs of Debian's packages slapd and ldap-utils; `slapd_missing` says which are not there.
"""

import datetime
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from time import monotonic
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.installation import free_ports
from tests.support.patience import HUNG_SECONDS

BASE: Final = "dc=campus,dc=example"
READER: Final = (f"cn=reader,{BASE}", "reader-secret-1")
PASSWORD: Final = "lantern-otter-quarry"
FACULTY: Final = f"cn=faculty,ou=groups,{BASE}"
ADMINS: Final = f"cn=admins,ou=groups,{BASE}"
MEMBERS: Final = f"cn=members,ou=groups,{BASE}"
TOM: Final = "t*m(x)@campus.example"
_ROOT: Final = (f"cn=root,{BASE}", "root-secret-1")
_PLACES: Final = "/usr/sbin:/usr/local/sbin:/usr/local/libexec:/usr/lib/openldap"
_MODULES: Final = ("/usr/lib/ldap", "/usr/lib64/openldap", "/usr/lib/openldap")
_SCHEMAS: Final = ("/etc/ldap/schema", "/etc/openldap/schema")


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_PLACES}")


def _existing(places: tuple[str, ...]) -> str:
    return next((place for place in places if Path(place).is_dir()), "")


def slapd_missing() -> str:
    """What keeps us from starting one; empty when nothing does."""
    absent = [name for name in ("slapd", "ldapmodify") if _program(name) is None]
    return f"not installed: {', '.join(absent)} (Debian packages slapd, ldap-utils)" if absent else ""


class Slapd:
    """ann is a member, fay in the group faculty, ada in admins; tom's address would be a filter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ldap_port, self.ldaps_port = free_ports(2)
        self.url, self.tls_url = f"ldap://localhost:{self.ldap_port}", f"ldaps://localhost:{self.ldaps_port}"
        self.ca_file, self.other_ca_file = folder / "ca.pem", folder / "other-ca.pem"
        self._socket = f"ldapi://{str(folder / 'ldapi').replace('/', '%2F')}"
        self._process: subprocess.Popen[bytes] | None = None
        _certificates(folder)
        _certificates(folder, "other-")
        program = _program("slapd")
        assert program is not None
        self._program = folder / "slapd"
        shutil.copy(program, self._program)  # AppArmor binds the installed one to the system's own directories
        (folder / "data").mkdir()
        (folder / "slapd.conf").write_text(self._configuration())
        (folder / "people.ldif").write_text(_people())
        self._run("-T", "add", "-f", str(folder / "slapd.conf"), "-l", str(folder / "people.ldif"))

    def start(self) -> None:
        where = f"ldap://127.0.0.1:{self.ldap_port}/ ldaps://127.0.0.1:{self.ldaps_port}/ {self._socket}/"
        with (self.folder / "slapd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-f", self.folder / "slapd.conf", "-h", where, "-d", "stats"], stdout=log, stderr=log
            )
        deadline = monotonic() + HUNG_SECONDS
        while not self._listens():
            assert self._process.poll() is None, self.log
            assert monotonic() < deadline, self.log
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """It takes connections and says nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def log(self) -> str:
        return (self.folder / "slapd.log").read_text()

    def dn(self, name: str) -> str:
        return f"uid={name},ou=people,{BASE}"

    def add(self, name: str, **more: str) -> None:
        self._modify(f"dn: {self.dn(name)}\nchangetype: add\n{_person(name, **more)}")

    def remove(self, name: str) -> None:
        self._modify(f"dn: {self.dn(name)}\nchangetype: delete\n")

    def set(self, dn: str, attribute: str, *values: str) -> None:
        lines = "\n".join(f"{attribute}: {value}" for value in values)
        self._modify(f"dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{lines}\n")

    def _modify(self, ldif: str) -> None:
        program = _program("ldapmodify")
        assert program is not None
        dn, password = _ROOT
        done = subprocess.run(
            [program, "-x", "-H", self._socket, "-D", dn, "-w", password], input=ldif, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.ldaps_port)) == 0

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self._program, *arguments], capture_output=True, text=True, timeout=HUNG_SECONDS)
        assert done.returncode == 0, done.stderr

    def _configuration(self) -> str:
        schemas = _existing(_SCHEMAS)
        includes = "\n".join(f"include {schemas}/{name}.schema" for name in ("core", "cosine", "inetorgperson"))
        return f"""\
{includes}
modulepath {_existing(_MODULES)}
moduleload back_mdb
moduleload ppolicy
pidfile {self.folder}/pid
TLSCACertificateFile {self.folder}/ca.pem
TLSCertificateFile {self.folder}/server.pem
TLSCertificateKeyFile {self.folder}/server.key
security simple_bind=56
allow bind_anon_dn
database mdb
suffix {BASE}
rootdn {_ROOT[0]}
rootpw {_ROOT[1]}
directory {self.folder}/data
maxsize 16777216
overlay ppolicy
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact={READER[0]} read by * none
"""


def _people() -> str:
    name, password = READER
    groups = "\n".join(
        f"dn: {dn}\nobjectClass: groupOfNames\nmember: uid={who},ou=people,{BASE}\n"
        for dn, who in ((FACULTY, "fay"), (ADMINS, "ada"), (MEMBERS, "ann"))
    )
    addresses = {"ann": "", "fay": "", "ada": "", "tom": TOM}
    people = "\n".join(f"dn: uid={one},ou=people,{BASE}\n{_person(one, mail=mail)}" for one, mail in addresses.items())
    return f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
o: Campus

dn: {name}
objectClass: organizationalRole
objectClass: simpleSecurityObject
userPassword: {password}

dn: ou=people,{BASE}
objectClass: organizationalUnit

dn: ou=groups,{BASE}
objectClass: organizationalUnit

dn: cn=elsewhere,{BASE}
objectClass: referral
objectClass: extensibleObject
ref: ldap://127.0.0.1:1/{BASE}

{groups}
{people}"""


def _person(name: str, *, mail: str = "", cn: str = "") -> str:
    return f"""\
objectClass: inetOrgPerson
uid: {name}
cn: {cn or name.title() + " Example"}
sn: Example
mail: {mail or name + "@campus.example"}
userPassword: {PASSWORD}
"""


def _certificates(folder: Path, prefix: str = "") -> None:
    """An authority, and a server's certificate for localhost by it."""
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(of: str, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, of)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{prefix}authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(authority, hashes.SHA256())

    known = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    root = certificate(f"{prefix}authority", authority, x509.BasicConstraints(True, 0), known, usage)
    # not for 127.0.0.1: a client that does not check the name would not notice
    leaf = certificate(
        "localhost",
        server,
        x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.2"))]),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / f"{prefix}ca.pem").write_bytes(root.public_bytes(pem))
    (folder / f"{prefix}server.pem").write_bytes(leaf.public_bytes(pem))
    key_file = folder / f"{prefix}server.key"
    key_file.write_bytes(server.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    key_file.chmod(0o600)
