"""`Machine`: the cards and the memory that a model may use, seen without torch."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Card", "Ending", "Machine", "this_machine"]


@dataclass(frozen=True, slots=True)
class Card:
    """One CUDA card as torch will number it; memory in bytes.

    `capability` is CUDA's number for its generation ((8, 0) is Ampere), (0, 0) if not known.
    """

    index: int
    name: str
    total: int
    free: int
    capability: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes; `disk_free` is that of the folder that offloaded weights go to."""

    cards: tuple[Card, ...]
    ram_total: int
    ram_free: int
    disk_free: int


@dataclass(frozen=True, slots=True)
class Ending:
    """A worker that ends before the load: its process, and what its model holds on each card.

    The latter counts where the driver does not tell more: in a container it knows the
    process under another number.
    """

    pid: int
    cards: Mapping[str, int]


def this_machine(
    offload_dir: Path,
    *,
    ending: Ending | None = None,
    environment: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> Machine:
    """Look at the machine. What is not there or cannot be read counts as nothing.

    What `ending` holds is counted as free.
    """
    total, free = _ram(root)
    return Machine(
        cards=_cards(os.environ if environment is None else environment, ending),
        ram_total=total,
        ram_free=min(total, free + _held_ram(root, ending)),
        disk_free=_disk_free(offload_dir),
    )


# -- cards ------------------------------------------------------------------------------


def _cards(environment: Mapping[str, str], ending: Ending | None) -> tuple[Card, ...]:
    """The cards that torch will see, by NVML, which needs no CUDA context of its own."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        uuids = [_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        seen = _visible(environment.get("CUDA_VISIBLE_DEVICES"), uuids)
        return tuple(_card(pynvml, handles[i], index, ending) for index, i in enumerate(seen))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _card(pynvml: Any, handle: Any, index: int, ending: Ending | None) -> Card:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    capability = (0, 0)
    with contextlib.suppress(pynvml.NVMLError):
        capability = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    held = 0 if ending is None else ending.cards.get(f"cuda:{index}", 0)
    with contextlib.suppress(pynvml.NVMLError):
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if ending is not None and process.pid == ending.pid:
                held = max(held, process.usedGpuMemory or 0)
    name = _text(pynvml.nvmlDeviceGetName(handle))
    free = min(memory.total, memory.free + held)
    return Card(index, name, memory.total, free, capability)


def _text(value: str | bytes) -> str:
    """NVML's strings, which old versions of the library give as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _visible(value: str | None, uuids: list[str]) -> list[int]:
    """NVML's numbers of the cards that CUDA_VISIBLE_DEVICES leaves, in torch's order.

    As CUDA reads it: numbers or beginnings of UUIDs, up to the first that names no card.
    NVML numbers by the PCI bus, as the worker's CUDA is told to.
    """
    if value is None:
        return list(range(len(uuids)))
    seen: list[int] = []
    for entry in (part.strip() for part in value.split(",")):
        if entry.isdecimal() and entry.isascii():
            found = [int(entry)] if len(entry) < 9 and int(entry) < len(uuids) else []
        else:
            found = [i for i, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(found) != 1 or found[0] in seen:
            break
        seen += found
    return seen


# -- the processor's memory -------------------------------------------------------------


def _ram(root: Path) -> tuple[int, int]:
    """Total and available memory, within the limits of the container."""
    about = _numbers(root / "proc/meminfo")
    if not about:
        return _ram_elsewhere()
    total = about.get("MemTotal", 0) * 1024
    free = about.get("MemAvailable", about.get("MemFree", 0)) * 1024
    for limit, used in _cgroups(root):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return total, free


def _ram_elsewhere() -> tuple[int, int]:
    """Where there is no /proc: by psutil, which accelerate brings along."""
    try:
        import psutil
    except ImportError:
        return 0, 0
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def _cgroups(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of the control groups that this process is in, from its own one upwards.

    Use leaves out the cached files, which are given up when memory is wanted.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            names, top, prefix = ("memory.max", "memory.current"), mount, ""
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            top, prefix = mount / "memory", "total_"
        else:
            continue
        own = top / path.lstrip("/")
        # Within a container the group's own path may not be there, but its top is.
        for folder in [own, *own.parents][: len(own.parts) - len(top.parts) + 1]:
            limit, used = (_read(folder / name).strip() for name in names)
            if limit.isdecimal() and used.isdecimal():
                stat = _numbers(folder / "memory.stat")
                kinds = (f"{prefix}inactive_file", f"{prefix}active_file")
                yield int(limit), int(used) - sum(stat.get(kind, 0) for kind in kinds)


def _held_ram(root: Path, ending: Ending | None) -> int:
    """What ending it frees; the files that it maps are counted as available already."""
    if ending is None:
        return 0
    about = _numbers(root / f"proc/{ending.pid}/status")
    return (about.get("RssAnon", 0) + about.get("RssShmem", 0)) * 1024


def _numbers(file: Path) -> dict[str, int]:
    """Lines of "name: 12 kB" or "name 12"."""
    found = {}
    for line in _read(file).splitlines():
        words = line.replace(":", " ").split()
        if len(words) > 1 and words[1].isdecimal():
            found[words[0]] = int(words[1])
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _disk_free(folder: Path) -> int:
    """Of the file system that the folder is on, or will be."""
    there = next((f for f in (folder, *folder.absolute().parents) if f.is_dir()), None)
    try:
        return shutil.disk_usage(there).free if there else 0
    except OSError:
        return 0
