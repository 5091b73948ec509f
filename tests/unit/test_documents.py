"""The documents say what the code does: tables complete, examples true, links whole.

Seen to fail for: a setting without a row, a changed default, a metric that nobody documented, a wrong sum in an
example, a route whose role differs from docs/security.md, an operation that docs/feed.md does not know, a link to a
file that is not there, a glossary out of order.
"""

import doctest
import re
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

import actors.metrics
from config.settings import SECRETS, Settings
from engine.metering.readings import ReadingCode
from gateway.metrics import GatewayMetrics
from gateway.permission_page import permission_table, with_table
from gateway.permissions import CHANNELS, OPERATIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OPERATIONS_TEXT = (DOCS / "operations.md").read_text("utf-8")
FEED_TEXT = (DOCS / "feed.md").read_text("utf-8")
GLOSSARY_TEXT = (DOCS / "glossary.md").read_text("utf-8")
DEFAULTS = tomllib.loads((ROOT / "config" / "default.toml").read_text("utf-8"))
MARKDOWN = sorted([*DOCS.rglob("*.md"), ROOT / "CHANGELOG.md", ROOT / "bench" / "README.md"])

SETTING_ROW = re.compile(r"^\| `(\w+)` \| `([^`]*)` \| (.+) \|$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([\w-]+))?\)")
DECISION = re.compile(r"(\d{4})-[a-z0-9-]+\.md")


def setting_rows() -> dict[str, str]:
    return {name: default for name, default, _ in SETTING_ROW.findall(OPERATIONS_TEXT) if name in DEFAULTS}


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_every_setting_stands_in_the_table_with_its_default(name: str) -> None:
    default = DEFAULTS[name]
    shown = str(default).lower() if isinstance(default, bool) else f'"{default}"' if default == "" else str(default)

    assert setting_rows().get(name) == shown


def test_the_table_knows_no_setting_that_is_gone() -> None:
    section = OPERATIONS_TEXT.partition("## Settings")[2].partition("\n## ")[0]

    assert {name for name, _, _ in SETTING_ROW.findall(section)} == set(Settings.__struct_fields__)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_every_secret_is_named_as_one(name: str) -> None:
    assert f"`WATTBOOK_{name.upper()}_FILE`" in OPERATIONS_TEXT


def metric_names() -> list[str]:
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    own = [metric for metric in vars(actors.metrics).values() if isinstance(metric, MetricWrapperBase)]
    families = [*registry.collect(), *(family for metric in own for family in metric.collect())]
    return [f"{family.name}_total" if family.type == "counter" else family.name for family in families]


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_is_documented(name: str) -> None:
    assert f"`{name}`" in OPERATIONS_TEXT


@pytest.mark.parametrize("code", ReadingCode)
def test_every_verdict_on_a_reading_is_documented(code: ReadingCode) -> None:
    name = "VALIDATION_FAILED" if code is ReadingCode.MALFORMED else code.name  # as it is shown

    assert f"| `{name}` | {code.value} |" in (DOCS / "errors.md").read_text("utf-8")


@pytest.mark.parametrize("name", [*OPERATIONS, *CHANNELS])
def test_every_operation_and_channel_of_the_socket_is_documented(name: str) -> None:
    assert f"`{name}`" in FEED_TEXT or f"### {name}" in FEED_TEXT


def test_the_permission_table_is_the_codes() -> None:
    page = (DOCS / "security.md").read_text("utf-8")

    assert with_table(page) == page, "make docs"
    assert permission_table() in page


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        with_table("# Security\n")


@pytest.mark.parametrize(
    "document", ["fees-and-funds.md", "feed.md", "metering.md", "auctions.md", "settlement.md", "oracle.md"]
)
def test_the_examples_are_what_the_code_computes(document: str) -> None:
    outcome = doctest.testfile(str(DOCS / document), module_relative=False)

    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text("utf-8")):
        if "://" in target:
            continue
        file = (path.parent / target).resolve()
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def anchors(file: Path) -> set[str]:
    """Of every heading, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_decisions_are_numbered_without_a_gap() -> None:
    matches = [DECISION.fullmatch(path.name) for path in sorted((DOCS / "decisions").iterdir())]

    assert all(matches)
    assert [int(match[1]) for match in matches if match] == list(range(1, len(matches) + 1))


@pytest.mark.parametrize("path", sorted((DOCS / "decisions").glob("*.md")), ids=lambda path: path.stem)
def test_a_decision_says_what_was_asked_chosen_paid_and_refused(path: Path) -> None:
    text = path.read_text("utf-8")

    assert re.search(r"^Status: \w+, \d{4}-\d{2}-\d{2}", text, re.MULTILINE)
    for heading in ("## Question", "## Choice", "## Cost", "## Refused"):
        assert heading in text


def test_the_glossary_is_in_order() -> None:
    words = [word.lower() for word in re.findall(r"^\*\*(.+?)\*\*", GLOSSARY_TEXT, re.MULTILINE)]

    assert len(words) > 50
    assert words == sorted(words)
