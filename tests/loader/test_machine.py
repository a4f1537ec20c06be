"""The cards as torch will number them, and the memory that a container leaves."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.loader.machine import Ending, Machine, this_machine

GB = 10**9


@dataclass
class FakeNvml:
    """NVML as the library shows it: three cards, in the order of the PCI bus."""

    failing: set[str] = field(default_factory=set)
    names: tuple[str, ...] = ("Old", "Big", "Small")
    NVMLError = OSError
    shut: int = 0

    def _call(self, name: str, answer: object) -> object:
        if name in self.failing:
            raise self.NVMLError(name)
        return answer

    def nvmlInit(self) -> object:  # noqa: N802
        return self._call("init", None)

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut += 1

    def nvmlDeviceGetCount(self) -> object:  # noqa: N802
        return self._call("count", len(self.names))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> object:  # noqa: N802
        return self._call("uuid", f"GPU-{handle}{handle}aa-11")

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return self.names[handle].encode()

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> object:  # noqa: N802
        return self._call("memory", SimpleNamespace(total=(handle + 1) * 8 * GB, free=6 * GB))

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> object:  # noqa: N802
        return self._call("capability", (9, 0))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> object:  # noqa: N802
        return self._call("processes", [SimpleNamespace(pid=7, usedGpuMemory=1 * GB)])


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    return fake


def look(root: Path, ending: Ending | None = None, **environment: str) -> Machine:
    return this_machine(root, ending=ending, environment=environment, root=root)


# -- cards ------------------------------------------------------------------------------


def test_all_cards_are_seen(nvml: FakeNvml, tmp_path: Path) -> None:
    cards = look(tmp_path).cards
    assert [(card.index, card.name) for card in cards] == [(0, "Old"), (1, "Big"), (2, "Small")]
    assert (cards[1].total, cards[1].free, cards[1].capability) == (16 * GB, 6 * GB, (9, 0))
    assert nvml.shut == 1


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", []),
        ("-1", []),
        ("1", ["Big"]),
        ("2,0", ["Small", "Old"]),
        (" 2 , 0 ", ["Small", "Old"]),
        ("GPU-11aa", ["Big"]),
        ("GPU-22aa-11,GPU-00", ["Small", "Old"]),
        ("GPU-", []),
        ("0,9,1", ["Old"]),
        ("0,-1,1", ["Old"]),
        ("0,0", ["Old"]),
        ("nonsense", []),
        ("MIG-12345", []),
        ("9" * 5000, []),
        ("²", []),
    ],
)
def test_cards_are_numbered_as_torch_numbers_them(
    value: str, names: list[str], nvml: FakeNvml, tmp_path: Path
) -> None:
    cards = look(tmp_path, CUDA_VISIBLE_DEVICES=value).cards
    assert [card.name for card in cards] == names
    assert [card.index for card in cards] == list(range(len(names)))


@pytest.mark.parametrize("failing", ["init", "count", "uuid", "memory"])
def test_a_driver_that_does_not_answer_means_no_cards(
    failing: str, nvml: FakeNvml, tmp_path: Path
) -> None:
    nvml.failing.add(failing)
    assert look(tmp_path).cards == ()


def test_without_the_library_there_are_no_cards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert look(tmp_path).cards == ()


def test_what_a_card_does_not_tell_is_left_open(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.failing |= {"capability", "processes"}
    assert look(tmp_path).cards[0].capability == (0, 0)


def test_what_the_ending_worker_holds_is_free(nvml: FakeNvml, tmp_path: Path) -> None:
    free = [card.free for card in look(tmp_path, Ending(7, {})).cards]
    assert free == [7 * GB, 7 * GB, 7 * GB]
    assert look(tmp_path, Ending(8, {})).cards[0].free == 6 * GB


def test_in_a_container_what_it_is_known_to_hold_counts(nvml: FakeNvml, tmp_path: Path) -> None:
    free = [card.free for card in look(tmp_path, Ending(8, {"cuda:1": 5 * GB})).cards]
    assert free == [6 * GB, 11 * GB, 6 * GB]


def test_no_more_is_free_than_there_is(nvml: FakeNvml, tmp_path: Path) -> None:
    assert look(tmp_path, Ending(8, {"cuda:0": 50 * GB})).cards[0].free == 8 * GB


# -- memory -----------------------------------------------------------------------------

MEMINFO = "MemTotal:  16000000 kB\nMemFree:  100 kB\nMemAvailable:  8000000 kB\n"
TOTAL, FREE = 16_000_000 * 1024, 8_000_000 * 1024


def write(root: Path, **files: str) -> None:
    """Files under `root`; __ in a name is a slash, and _dot_ a dot."""
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def memory(root: Path) -> tuple[int, int]:
    machine = look(root)
    return machine.ram_total, machine.ram_free


def test_memory_without_a_container(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/\n")
    assert memory(tmp_path) == (TOTAL, FREE)


def test_the_limit_of_a_container_counts_without_its_file_cache(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__memory_dot_max=str(4 * GB),
        sys__fs__cgroup__memory_dot_current=str(3 * GB),
        sys__fs__cgroup__memory_dot_stat=f"anon 5\ninactive_file {GB}\nactive_file {GB}\n",
    )
    assert memory(tmp_path) == (4 * GB, 3 * GB)


def test_the_limit_of_a_group_above_counts_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/user/app\n",
        sys__fs__cgroup__user__app__memory_dot_max="max\n",
        sys__fs__cgroup__user__app__memory_dot_current="10\n",
        sys__fs__cgroup__user__memory_dot_max=f"{2 * GB}\n",
        sys__fs__cgroup__user__memory_dot_current=f"{GB}\n",
    )
    assert memory(tmp_path) == (2 * GB, GB)


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="9:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes=str(5 * GB),
        sys__fs__cgroup__memory__memory_dot_usage_in_bytes=str(4 * GB),
        sys__fs__cgroup__memory__memory_dot_stat=f"total_inactive_file {GB}\ninactive_file 7\n",
    )
    assert memory(tmp_path) == (5 * GB, 2 * GB)


def test_a_limit_above_what_there_is_changes_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="4:memory:/\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes=str(2**63 - 4096),
        sys__fs__cgroup__memory__memory_dot_usage_in_bytes=str(GB),
    )
    assert memory(tmp_path) == (TOTAL, FREE)


def test_the_ending_workers_own_memory_is_free_and_not_its_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__7__status="Name: x\nRssAnon: 1000000 kB\nRssFile: 500000 kB\nRssShmem: 5 kB\n",
    )
    assert look(tmp_path, Ending(7, {})).ram_free == FREE + 1_000_005 * 1024
    assert look(tmp_path, Ending(8, {})).ram_free == FREE


def test_where_there_is_no_proc_psutil_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(total=12, available=8))
    monkeypatch.setitem(sys.modules, "psutil", fake)  # type: ignore[arg-type]
    assert memory(tmp_path) == (12, 8)


def test_the_disk_is_that_of_a_folder_that_may_not_be_there_yet(tmp_path: Path) -> None:
    assert this_machine(tmp_path / "a" / "b").disk_free > 0


def test_this_machine_has_memory() -> None:
    machine = this_machine(Path("user_data/offload"))
    assert 0 < machine.ram_free <= machine.ram_total
