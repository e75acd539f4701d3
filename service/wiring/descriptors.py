"""Check at start that the limit of open files covers the configured limits on requests and connections."""

from __future__ import annotations

import logging
import resource

from service.settings import Settings

logger = logging.getLogger(__name__)

# Files of one request: spooled answer, shared answer, answer stored for its idempotency key, and either the upload
# (two descriptors) or a document.
_PER_REQUEST = 5
# Pipe and process descriptors of one decoder child.
_PER_DECODER = 6
# Standard streams, libraries, listeners, the zygote, logs, Redis, webhooks, jobs.
_BASE = 256


def needed_descriptors(settings: Settings) -> int:
    """Return the number of descriptors that the process needs when all configured limits are reached."""
    ports = 2 * settings.max_connections
    requests = _PER_REQUEST * (settings.max_open_requests + settings.max_live_streams)
    return ports + requests + _PER_DECODER * settings.num_decoders + _BASE


def ensure_descriptors(settings: Settings) -> bool:
    """Raise the soft limit of open files to the number needed, as far as the hard limit allows.

    Returns:
        Whether the limit is sufficient. If not, one warning is logged. A service that reaches the limit briefly
        accepts no new connections and answers 503.
    """
    needed = needed_descriptors(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    is_enough = soft == resource.RLIM_INFINITY or soft >= needed
    if not is_enough:
        logger.warning(
            "the limit of open files is too low; raise it (ulimit -Hn) or lower AVES_MAX_CONNECTIONS",
            extra={"limit": soft, "needed": needed},
        )
    return is_enough
