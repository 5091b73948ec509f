"""An exchange that was started for a bench ends with the bench, however that ends.

Planted and noticed: SIGTERM left as it was, a start that is interrupted and leaves its daemon, data that stays.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.installation import stolen_percent
from tests.support.patience import HUNG_SECONDS

DAEMON = """#!{python}
import os, signal, sys, time
def end(*_):
    open({ended!r}, "w").write(os.environ["WATTBOOK_DATA_DIR"])
    sys.exit()
signal.signal(signal.SIGINT, end)
open({began!r}, "w").close()
time.sleep(60)
"""
BENCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # who is started in the background is told to ignore it
sys.executable = {python!r}
from bench.installation import Installation
with Installation():
    pass
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_bench_that_is_ended_ends_its_exchange(tmp_path: Path, how: signal.Signals) -> None:
    began, ended = tmp_path / "began", tmp_path / "ended"
    os.mkfifo(began)
    daemon = tmp_path / "wattbookd"
    daemon.write_text(DAEMON.format(python=sys.executable, began=str(began), ended=str(ended)))
    daemon.chmod(0o755)

    bench = subprocess.Popen(
        [sys.executable, "-c", BENCH.format(python=str(tmp_path / "python"))], stderr=subprocess.PIPE
    )
    began.open().close()  # returns once the daemon has opened it, too
    bench.send_signal(how)
    said = bench.communicate(timeout=HUNG_SECONDS)[1].decode()

    assert bench.returncode != 0, said
    assert ended.exists(), said
    assert not Path(ended.read_text()).exists()


def test_what_the_host_gave_to_others_is_a_share_of_all_time() -> None:
    before = psutil.cpu_times()
    more = before._replace(user=before.user + 6, idle=before.idle + 2)

    assert stolen_percent(before, before) == 0.0
    assert stolen_percent(before, more) == 0.0
    if hasattr(before, "steal"):
        assert stolen_percent(before, more._replace(steal=before.steal + 2)) == pytest.approx(20.0)
