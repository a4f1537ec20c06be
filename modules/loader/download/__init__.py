"""Models and LoRAs from a hub: look first, then fetch, verified to the last byte.

`listing` says what is wanted and what there is, `choice` which of its files are taken, `hub`
talks to the hub, `transfer` brings one file, `folder` brings them all and publishes them,
and `record` remembers what was brought, so that it can be checked.

huggingface_hub finds the token, lists the repository, makes the addresses and headers and
owns the connections. The transfer of a file is a loop of ours over its session, because
`hf_hub_download` of 2.x cannot do what is promised here: it writes to a temporary file of a
random name and deletes it when anything interrupts (`_download_to_tmp_and_move`), so that
nothing is resumed by the next call; it compares no hash with what arrived; a connection that
is reset (`ReadError`) ends it; its waits between attempts cannot be interrupted; and its only
hook is the class of a progress bar, so that a pause would have to be an exception out of tqdm.
"""

from __future__ import annotations

from modules.loader.download.folder import Stop, bytes_present, discard_partial, fetch
from modules.loader.download.hub import look
from modules.loader.download.listing import DownloadRequest, Listing, RemoteFile
from modules.loader.download.meter import DownloadProgress
from modules.loader.download.record import read_record, verify

__all__ = [
    "DownloadProgress",
    "DownloadRequest",
    "Listing",
    "RemoteFile",
    "Stop",
    "bytes_present",
    "discard_partial",
    "fetch",
    "look",
    "read_record",
    "verify",
]
