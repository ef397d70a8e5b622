"""Is the hub there? One question with a short time to answer, before its library asks for a file.

For a file that is not in its cache ``huggingface_hub`` tries six times, in about 25 seconds, with two lines of log each. A
machine without a network shall hear that it has none in the first.
"""

from __future__ import annotations

import functools


def out_of_reach(name: str, *files: str) -> str | None:
    """Why none of these files of the repository ``name`` can be had now; None if one is in the cache or the hub answers.

    That the hub answers does not say that it has the file.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in files):
            return None
    except HFValidationError:
        return None  # no name of the hub's: its library says so at once, without asking anybody
    return _silence()


@functools.cache
def _silence() -> str | None:
    """Why the hub does not answer, asked once a process; None if it does, whatever it says."""
    from huggingface_hub import constants, get_session

    try:
        # Its own session: it knows the proxy, the certificates and HF_HUB_OFFLINE.
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # by version the classes are of requests, of httpx or of httpx2
        if constants.HF_HUB_OFFLINE:
            return "the hub is not asked (HF_HUB_OFFLINE)"
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        return f"the hub at {constants.ENDPOINT} cannot be reached ({first})"
    return None
