"""Try every fault in full count, and write the table in docs/reliability.md.

python docs/reliability.py              # an hour on two cores; needs requirements-dev.txt
python docs/reliability.py report.xml   # from the reports of runs of tests/faults
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- made by docs/reliability.py -->\n"
END = "<!-- until here -->\n"
RUN = ["tests/faults", "-m", "soak or not soak", "-o", "junit_family=xunit1"]
FIGURES = {"kill": 1, "disk": 2, "stops": 9, "sessions": 10, "drift": 11, "names": 12, "fuzz": 14,
           "launches": 15}  # fmt: skip
"""The numbers of the list in docs/reliability.md, by the file of tests/faults/."""


@dataclass(frozen=True)
class Case:
    """One test, and what it told."""

    file: str
    name: str
    tried: str
    outcome: str
    seconds: float
    date: str

    @property
    def form(self) -> tuple[str, int]:
        """The test without its count, and the count."""
        counted = re.search(r"\b(\d+)\]$", self.name)
        return re.sub(r"-?\d+\]$", "", self.name), int(counted[1]) if counted else 0


def main(reports: list[Path]) -> None:
    """Put the table between the two comments."""
    with tempfile.TemporaryDirectory() as folder:
        if not reports:
            reports = [Path(folder) / "report.xml"]
            command = [sys.executable, "-m", "pytest", *RUN, f"--junitxml={reports[0]}"]
            subprocess.run(command, cwd=ROOT, check=False)
        text = table([case for report in reports for case in cases(report)])
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}{text}{END}{after}", "utf-8")


def cases(report: Path) -> Iterator[Case]:
    """What a report has of tests that were not skipped."""
    for suite in ET.parse(report).getroot().iter("testsuite"):  # noqa: S314 - of our own making
        for case in suite.iter("testcase"):
            told = {one.get("name"): one.get("value", "") for one in case.iter("property")}
            failed = case.find("failure") is not None or case.find("error") is not None
            if case.find("skipped") is not None:
                continue
            yield Case(
                case.get("classname", "").rpartition(".")[2].removeprefix("test_"),
                case.get("name", ""),
                told.get("tried", "") or case.get("name", ""),
                "**failed**" if failed else told.get("outcome", "passed"),
                float(case.get("time", 0)),
                suite.get("timestamp", "")[:10],
            )


def table(found: list[Case]) -> str:
    """A row for each test, in its fullest form."""
    fullest: dict[str, Case] = {}
    for case in found:
        form, count = case.form
        if form not in fullest or count >= fullest[form].form[1]:
            fullest[form] = case
    ordered = sorted(fullest.values(), key=lambda case: FIGURES.get(case.file, 99))
    rows = [
        f"| {FIGURES.get(case.file, '')} | {case.tried} | {case.outcome} | {_time(case.seconds)} |"
        f" `{case.file}` |\n"
        for case in ordered
    ]
    dates = " and ".join(sorted({case.date for case in ordered}))
    return (
        f"\nRun on {dates} with Python {platform.python_version()}, {machine()}.\n\n"
        "| figure | tried | found | took | `tests/faults/test_….py` |\n|---|---|---|---|---|\n"
        f"{''.join(rows)}\n"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def machine() -> str:
    """The processor, its cores, and the memory."""
    about = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", about.read_text()) if about.exists() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = named[1].strip() if named else platform.processor()
    return f"{os.cpu_count()} cores of {processor}, {memory:.0f} GB of memory, {platform.system()}"


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
