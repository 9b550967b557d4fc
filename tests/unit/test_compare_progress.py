"""The progress bar: what is done, what is left."""

import io

import pytest

from lib_noiseorder.tools import progress
from lib_noiseorder.tools.progress import Bar, duration


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_time_left_counts_only_what_this_run_has_made(clock, monkeypatch):
    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    bar = Bar("pictures")
    bar(60, 100)  # made before
    clock[0] = 20.0
    bar(70, 100)
    assert progress.sys.stderr.getvalue().endswith("[#####################.........]  70%  70/100  1 min 0 s left")
    bar(100, 100)
    bar.close()
    assert progress.sys.stderr.getvalue().endswith("100%  100/100\n")


def test_a_line_every_tenth_where_there_is_no_terminal(clock, capsys):
    bar = Bar("pictures")
    for done in range(101):
        bar(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11 and "unknown time left" in lines[0] and lines[-1].endswith("100%  100/100")


def test_quiet_says_nothing_but_what_must_be_said(capsys):
    bar = Bar("pictures", quiet=True)
    bar(0, 10)
    bar(10, 10)
    bar.say("a WebUI is lost")
    bar.close()
    assert capsys.readouterr().err == "a WebUI is lost\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
