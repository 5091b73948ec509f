"""E-mail addresses in the one form that is stored and compared."""

from email_validator import EmailNotValidError, validate_email


def normal_email(text: str) -> str | None:
    """None for what is no address."""
    try:
        # a campus may well live under .local or .test; whether mail arrives is not asked here
        found = validate_email(
            text.strip(), check_deliverability=False, test_environment=True, globally_deliverable=False
        )
    except EmailNotValidError:
        return None
    return found.normalized.lower()
