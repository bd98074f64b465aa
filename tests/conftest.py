"""What every test shares: few threads, no machine state, and, in CI, no quiet skips."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for name in list(os.environ):
    if name.startswith(("OTEL_", "REHEARSAL_")) and name != "REHEARSAL_NO_SKIPS":
        del os.environ[name]


@pytest.fixture(autouse=True, scope="session")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep Dagster's history out of the developer's own."""
    before = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(tmp_path_factory.mktemp("dagster_home"))
    yield
    if before is None:
        del os.environ["DAGSTER_HOME"]
    else:
        os.environ["DAGSTER_HOME"] = before


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """With REHEARSAL_NO_SKIPS set, what was skipped has failed: CI has everything that a test may ask for."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("REHEARSAL_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be: {call.excinfo}"
