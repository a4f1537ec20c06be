"""What a load would cost here and now: the page's way to a `Plan`."""

from __future__ import annotations

from pathlib import Path

from modules.context import AppContext
from modules.engine.client import EngineClient
from modules.engine.protocol import LoadModel
from modules.errors import LoadFailedError
from modules.loader.inspect import Inspection
from modules.loader.machine import Ending, Machine, this_machine
from modules.loader.options import LoadOptions, load_options
from modules.loader.plan import Plan, make_plan
from modules.loader.saved_options import saved_options
from modules.settings import Settings

__all__ = [
    "free_machine",
    "load_command",
    "machine_now",
    "machine_without_model",
    "options_for",
    "plan_load",
    "summary",
]


def options_for(ctx: AppContext, path: Path) -> LoadOptions:
    """How this launch loads the model in the folder `path`. Raises SettingsError.

    What was saved for it counts where no flag says otherwise.
    """
    return load_options(ctx.settings, saved_options(ctx.settings.models_yaml, path.name))


def free_machine(ctx: AppContext) -> Machine:
    """The machine as it will be for the next load: without the present worker."""
    return machine_without_model(ctx.settings, ctx.engine)


def machine_without_model(settings: Settings, engine: EngineClient) -> Machine:
    """The machine as it would be if the engine's worker ended."""
    pid, state = engine.pid, engine.state
    if pid is None:
        return machine_now(settings)
    held = state.command.held if state.info is not None and state.command else {}
    return this_machine(settings.offload_dir, ending=Ending(pid, held))


def machine_now(settings: Settings) -> Machine:
    """The machine as it is."""
    return this_machine(settings.offload_dir)


def plan_load(ctx: AppContext, inspection: Inspection, options: LoadOptions) -> Plan:
    """What loading it in the place of the present model would cost. Looks at the machine."""
    adapters = _adapter_bytes(ctx, inspection.path)
    return make_plan(inspection, options, free_machine(ctx), adapter_bytes=adapters)


def _adapter_bytes(ctx: AppContext, path: Path) -> int:
    """The LoRAs that will lie over the model: those on it now, or those of the command line."""
    state = ctx.engine.state
    if Path(state.path) == path and state.adapters:
        folders = [Path(adapter.info.path) for adapter in state.adapters]
    else:
        folders = [ctx.settings.lora_dir / name for name in ctx.settings.lora]
    files = (folder / "adapter_model.safetensors" for folder in folders)
    return sum(file.stat().st_size for file in files if file.is_file())


def load_command(ctx: AppContext, path: Path, plan: Plan) -> LoadModel:
    """The command that does what was planned. Raises LoadFailedError where it does not fit."""
    if not plan.fits:
        raise LoadFailedError(plan.message, plan.remedy)
    # Other caches than the fast runner's are not there before they are used.
    held = {
        device.device: device.weights + (device.kv_cache if plan.cache_tokens else 0)
        for device in plan.devices
        if device.device.startswith("cuda")
    }
    offload_dir = str(ctx.settings.offload_dir)
    return LoadModel(str(path), plan.options, plan.placement, offload_dir, plan.cache_tokens, held)


def summary(name: str, plan: Plan) -> str:
    """What was loaded, in one line."""
    names = {"cpu": "the processor", "disk": "the disk"}
    devices = [names.get(device.device, device.device) for device in plan.devices]
    where = " and ".join([", ".join(devices[:-1]), devices[-1]] if len(devices) > 1 else devices)
    return f"Loaded {name}: {plan.weights}, on {where}."
