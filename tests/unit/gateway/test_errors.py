"""The one table of refusals."""

from pathlib import Path

from engine.messages import RejectCode
from engine.views import Failed, Fault, Refusal
from gateway.errors import MEANING, GatewayCode, Problem, error_table, problem_of, refused

ROOT = Path(__file__).parents[3]


def test_every_code_has_a_meaning() -> None:
    assert {*RejectCode, *Fault, *GatewayCode} == set(MEANING)
    assert len(MEANING) == len({code.name for code in MEANING}) == len([*RejectCode, *Fault, *GatewayCode])


def test_the_documentation_holds_the_table() -> None:
    assert error_table() in (ROOT / "docs" / "errors.md").read_text()


def test_no_refusal_is_a_500() -> None:
    assert [code.name for code, meaning in MEANING.items() if meaning.status == 500] == ["INTERNAL"]


def test_a_market_that_names_the_field_is_quoted() -> None:
    problem = refused(Refusal(RejectCode.VALIDATION_FAILED, "expires_at: is not in the future"))

    assert problem.body()["fields"] == {"expires_at": "is not in the future"}
    assert refused(Failed(Fault.OVERLOADED, "full")).status == 503


def test_an_unexpected_error_says_nothing_of_itself() -> None:
    body = problem_of(ValueError("secret"), (), read=True).body("r-1")

    assert (body["code"], body["request_id"]) == ("INTERNAL", "r-1")
    assert "secret" not in str(body)


def test_an_outage_is_503_and_of_a_write_the_outcome_is_unknown() -> None:
    class PoolGone(Exception):
        pass

    assert problem_of(PoolGone(), (PoolGone,), read=True).code is Fault.UNAVAILABLE
    assert problem_of(ConnectionResetError(), (), read=False).code is Fault.OUTCOME_UNKNOWN


def test_retry_after_is_rounded_up() -> None:
    assert Problem(GatewayCode.RATE_LIMITED, retry_after_seconds=0.2).retry_after_whole_seconds == 1
    assert Problem(GatewayCode.RATE_LIMITED, retry_after_seconds=1.2).retry_after_whole_seconds == 2
