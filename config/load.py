"""Where settings come from: default.toml, then the file that WATTBOOK_CONFIG names, then WATTBOOK_* variables.

Everything wrong is said at once, each with its setting, where it was set, its value unless it is a secret, and what is
allowed. An unknown name is wrong too: a misspelt setting that is ignored is a surprise for later.
"""

import builtins
import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from config.settings import SECRETS, Settings

DEFAULTS: Final = Path(__file__).with_name("default.toml")
PREFIX: Final = "WATTBOOK_"
CONFIG_VARIABLE: Final = "WATTBOOK_CONFIG"
FILE_SUFFIX: Final = "_FILE"
SECRET_BYTES_MAX: Final = 65_536
TRUE: Final = frozenset({"1", "true", "yes", "on"})
FALSE: Final = frozenset({"0", "false", "no", "off"})
FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Settings)}
SEPARATORS: Final = {  # of lists in a variable; names of groups have commas in them
    "solana_rpc_urls": ",",
    "solana_ws_urls": ",",
    "chain_lanes": ",",
    "cors_origins": ",",
    "trusted_proxies": ",",
    "ldap_student_groups": ";",
    "ldap_faculty_groups": ";",
    "ldap_admin_groups": ";",
}


class SettingsWrong(Exception):
    """The settings cannot be used; one line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process. Raises SettingsWrong."""
    variables = os.environ if environment is None else environment
    problems: list[str] = []
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    files = [DEFAULTS, *([Path(variables[CONFIG_VARIABLE])] if variables.get(CONFIG_VARIABLE) else [])]
    for file in files:
        for name, value in read_toml(file, problems).items():
            if name not in FIELDS:
                problems.append(f"{file}: {name}: there is no such setting{_meant(name, FIELDS)}")
                continue
            values[name], origin[name] = value, str(file)
    for variable, text in sorted(variables.items()):
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in FIELDS:
            if variable + FILE_SUFFIX in variables and name in SECRETS:
                problems.append(f"{variable} and {variable}{FILE_SUFFIX} are both set: keep one")
            values[name], origin[name] = _from_text(name, text), variable
        elif (secret := name.removesuffix("_file")) in SECRETS and name.endswith("_file"):
            values[secret], origin[secret] = _from_text(secret, _read_secret(variable, text, problems)), variable
        else:
            known = [PREFIX + each.upper() for each in FIELDS]
            problems.append(f"{variable}: there is no such setting{_meant(variable, known)}")
    settings = _decoded(values, origin, problems)
    if settings is not None:
        problems += settings.problems()
    if problems or settings is None:
        raise SettingsWrong(problems)
    return settings


def read_toml(path: Path, problems: list[str]) -> dict[str, Any]:
    """The file's contents; what is wrong with it is added to `problems`."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: is not TOML: {error}")
    return {}


def _decoded(values: dict[str, Any], origin: dict[str, str], problems: list[str]) -> Settings | None:
    """Each setting by itself first, so that every wrong one is said, not only the first."""
    wrong = False
    for name, value in values.items():
        field = FIELDS[name]
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            wrong = True
            shown = "" if name in SECRETS else f" = {value!r}"
            problems.append(f"{name}{shown} (from {origin[name]}): {_allowed(name, str(error))}")
    missing = [name for name in FIELDS if name not in values]
    problems += [f"{name}: is not set anywhere, and {DEFAULTS.name} should" for name in missing]
    return None if wrong or missing else msgspec.convert(values, Settings)


def _allowed(name: str, message: str) -> str:
    """What the setting's type says of itself, else the decoder's words."""
    kinds = [FIELDS[name].type, *get_args(FIELDS[name].type)]
    said = [meta.description for kind in kinds for meta in getattr(kind, "__metadata__", ()) if meta.description]
    return f"must be {said[0]}" if said else message.replace(" - at `$`", "").replace("Expected", "expected")


def _from_text(name: str, text: str) -> Any:
    """A variable's text as the TOML value that it stands for; text that fits none stays, to be refused by the type."""
    if name in SEPARATORS:
        return [part.strip() for part in text.split(SEPARATORS[name]) if part.strip()]
    kind = FIELDS[name].type
    match getattr(kind, "__origin__", kind):
        case builtins.bool:
            return True if text.lower() in TRUE else False if text.lower() in FALSE else text
        case builtins.int | builtins.float as number:
            try:
                return number(text)
            except ValueError:
                return text
    return text


def _read_secret(variable: str, path: str, problems: list[str]) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(SECRET_BYTES_MAX).decode("utf-8").strip()
    except OSError as error:
        problems.append(f"{variable} = {path!r}: cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        problems.append(f"{variable} = {path!r}: is not text")
    return ""


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
