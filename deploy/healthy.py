"""The container's health check: status 0 when orders can be placed in every open market, else 1 with the reasons."""

import os
import sys
import urllib.error
import urllib.request

SECONDS_MAX = 4


def main() -> int:
    url = f"http://127.0.0.1:{os.environ.get('WATTBOOK_HTTP_PORT', '8080')}/health/ready"
    try:
        with urllib.request.urlopen(url, timeout=SECONDS_MAX):
            return 0
    except urllib.error.HTTPError as error:
        print(error.read(2_000).decode("utf-8", "replace"), file=sys.stderr)  # noqa: T201 - for `docker inspect`
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)  # noqa: T201 - the same
    return 1


if __name__ == "__main__":
    sys.exit(main())
