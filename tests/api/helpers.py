"""An API over a fake engine, whose loads are jobs as those of the page are."""

from __future__ import annotations

from modules.api.keys import Keys
from modules.api.service import Api, Library
from modules.chat.template_choice import TemplateChoices
from modules.engine.client import EngineClient
from modules.engine.protocol import LoadModel
from modules.jobs import Job, JobManager
from modules.loader.catalog import find_model
from modules.loader.options import LoadOptions
from modules.settings import Settings

__all__ = ["make_api"]


def make_api(engine: EngineClient, settings: Settings, keys: Keys) -> Api:
    """What the routes work with."""
    jobs = JobManager()

    def load(name: str, options: LoadOptions | None) -> Job:
        path = find_model(settings.model_dir, name)
        command = LoadModel(str(path), options or LoadOptions())
        return jobs.submit(f"Loading {name}", lambda job: engine.load(command))

    return Api(engine, TemplateChoices(), keys, Library(settings, load))
