"""Whether the Hub can be reached: one request with a short time-out before its library asks for a file.

For a file that is not in its cache ``huggingface_hub`` tries six times, in about 25 seconds, with two lines of log each. A
machine without a network fails at once instead.
"""

from __future__ import annotations

import functools

from qlora_fast.errors import first_line


def unreachable_reason(name: str, *files: str) -> str | None:
    """Why none of these files of the repository ``name`` can be fetched; None if one is in the cache or the Hub answers.

    Whether the Hub has the file is not asked.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in files):
            return None
    except HFValidationError:
        return None  # not a valid name on the Hub: its library reports that without a request
    return _probe_hub()


@functools.cache
def _probe_hub() -> str | None:
    """Why the Hub does not answer, found out once per process; None for any answer."""
    from huggingface_hub import constants, get_session

    try:
        # Its own session: it knows the proxy, the certificates and HF_HUB_OFFLINE.
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # by version the classes are of requests, of httpx or of httpx2
        if constants.HF_HUB_OFFLINE:
            return "the Hub is not asked (HF_HUB_OFFLINE)"
        return f"the Hub at {constants.ENDPOINT} cannot be reached ({first_line(error)})"
    return None
