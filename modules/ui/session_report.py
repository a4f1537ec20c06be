"""What the Session tab reports, and what it shows of the log."""

from __future__ import annotations

import datetime
from typing import Any

from modules.context import AppContext
from modules.loader.machine import this_machine
from modules.log_tail import KEPT_LINES, LogLine
from modules.report import Facts, driver_version, written_report

__all__ = ["log_json", "report_json"]

_ERRORS = 5


def report_json(ctx: AppContext) -> dict[str, str]:
    """The report as text. Looks at the machine, so call it in a thread."""
    host = ctx.host
    started = datetime.datetime.fromtimestamp(host.started_at, datetime.UTC)
    facts = Facts(
        settings=ctx.settings,
        origins=host.origins,
        machine=this_machine(ctx.settings.offload_dir),
        driver=driver_version(),
        model=_model(ctx),
        launch=f"{started:%Y-%m-%d %H:%M} UTC" + (", from Python" if not host.can_restart else ""),
        extensions=[
            (one.name, f"{one.state}, {one.error}" if one.error else one.state)
            for one in ctx.extensions.infos()
        ],
        errors=_errors(ctx),
    )
    return {"text": host.redact(written_report(facts))}


def log_json(ctx: AppContext, after: int) -> dict[str, Any]:
    """The lines of the log after a number, the oldest first."""
    lines = ctx.host.log.lines(after)
    return {
        "boot": ctx.host.boot,
        "kept": KEPT_LINES,
        "verbose": ctx.settings.verbose,
        "lines": [_line(line) for line in lines],
    }


def _line(line: LogLine) -> dict[str, Any]:
    return {
        "number": line.number,
        "at": line.at,
        "level": line.level,
        "source": line.source,
        "text": line.text,
    }


def _model(ctx: AppContext) -> str:
    state = ctx.engine.state
    info = state.info
    if info is None:
        return f"none ({state.phase})"
    kind = info.dtype if info.quantization == "none" else info.quantization
    loras = [f"{one.info.name} at {one.weight:g}" for one in state.adapters]
    return (
        f"{info.name}: {info.parameters / 1e6:,.0f}M parameters, {kind}, context "
        f"{info.context_length:,}, {info.memory / 1e9:.2f} GB on {info.device}"
        + (f", LoRAs: {', '.join(loras)}" if loras else "")
    )


def _errors(ctx: AppContext) -> list[str]:
    """The last of what went wrong: in the log, in jobs, and in the engine."""
    logged = [
        f"{datetime.datetime.fromtimestamp(one.at, datetime.UTC):%H:%M:%S} {one.source}: {one.text}"
        for one in ctx.host.log.lines()
        if one.level in ("ERROR", "CRITICAL")
    ]
    failed = [f"{job.title}: {job.error}" for job in ctx.jobs.jobs() if job.error is not None]
    engine = [f"engine: {ctx.engine.state.error}"] if ctx.engine.state.error else []
    return [*logged[-_ERRORS:], *failed[-_ERRORS:], *engine]
