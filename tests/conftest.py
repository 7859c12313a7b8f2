"""What holds for all tests: hypothesis measures no times, because a crowded machine says nothing about the code.

A failed test shows what the servers have logged during it, because the next run may not fail again.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings
from server_process import ServerProcess

LINES = 30

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for log in ServerProcess.logs:
            if log.exists() and log.stat().st_mtime >= call.start:
                last = log.read_text(errors="replace").splitlines()[-LINES:]
                report.sections.append((f"log of a server, {log.parent.name}", "\n".join(last)))
    return report
