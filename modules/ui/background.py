"""`Running`: a Lantern in a thread of this process, as a notebook has it."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from modules.errors import LanternError

if TYPE_CHECKING:
    import uvicorn

    from modules.ui.web import Launch

__all__ = ["Running"]

_STOP_S = 30.0


class Running:
    """One server in a thread, with an event loop of its own. `stop` it, or leave its `with`."""

    def __init__(self, server: uvicorn.Server, launch: Launch) -> None:
        """Return when the page answers. Raises LanternError if it never will."""
        self._server = server
        self._launch = launch
        # A kernel that ends does not wait for it; the engine worker ends with its process.
        self._thread = threading.Thread(target=self._run, name="lantern", daemon=True)
        self._thread.start()
        while not launch.up.wait(0.1):
            if not self._thread.is_alive():
                raise LanternError("Lantern did not start.", "See what was printed above.")

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Lantern at {self.url}{'' if self.running else ', stopped'}>"

    @property
    def running(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    @property
    def url(self) -> str:
        """The page's address on this machine."""
        return self._launch.url

    @property
    def share_url(self) -> str:
        """The public link with its token. Waits until it has come; empty where there is none."""
        self._launch.settled.wait()
        url = self._launch.share_url
        return self._link(url) if url else ""

    @property
    def page_url(self) -> str:
        """The address for the browser that shows the notebook: shared, proxied, or local."""
        return self.share_url or (
            self._link(self._launch.settings.subpath) if self._launch.settings.subpath else self.url
        )

    def stop(self) -> None:
        """End the server and its engine, and give the port back. A second time does nothing."""
        self._server.should_exit = True
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise LanternError(f"Lantern did not end within {_STOP_S:.0f} seconds.",
                               "Restart the kernel.")  # fmt: skip

    def _link(self, url: str) -> str:
        guests, owner = self._launch.links(url)
        return owner or guests

    def _run(self) -> None:
        try:
            self._server.run(sockets=self._launch.sockets)
        finally:
            self._launch.close()
