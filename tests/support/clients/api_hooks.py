"""What Schemathesis cannot know of our API: clips, what fits together in a request, and the lines of NDJSON.

Loaded by its command line: `PYTHONPATH=tests SCHEMATHESIS_HOOKS=support.clients.api_hooks schemathesis run …`.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import schemathesis
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from support.inputs.clips import make_clip
from support.inputs.odd_clips import odd_clip

from service.rest.requests.request_head import NDJSON_TYPE, RAW_TYPES

# Clips that are answered in tens of milliseconds, with masks and with none, and bytes that are no clip.
CLIPS = [make_clip(width=32, height=32, num_frames=12), odd_clip("plain")]
FILES = st.one_of(*(st.just(clip) for clip in CLIPS), st.binary(max_size=64))
# Longer than any clip takes on a busy machine, so that no answer is 504.
_LEAST_TIMEOUT_S = 200.0
_NUMBERS = itertools.count()

schemathesis.openapi.format("binary", FILES)
for media_type in RAW_TYPES:
    schemathesis.openapi.media_type(media_type, FILES)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make a request that is valid by its schema one that this checkpoint and machine answer.

    Schemas cannot say that `end_s` lies over `start_s`, which labels the checkpoint has and how long a clip takes.
    """
    timeout_s = (case.headers or {}).get("X-Request-Timeout", "")
    if _is_short(timeout_s):
        case.headers["X-Request-Timeout"] = str(_LEAST_TIMEOUT_S)
    if (case.headers or {}).get("Idempotency-Key"):
        # a repeated key gets the first answer, also where that job has been deleted since
        case.headers["Idempotency-Key"] = f"{next(_NUMBERS)}"
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    for values in (case.query, case.body):
        if isinstance(values, dict):
            values.pop("labels", None)
            values.pop("end_s", None)
    if isinstance(case.body, dict) and case.query:
        for name in set(case.body) & set(case.query):
            del case.body[name]  # an option may be given once


def _is_short(timeout_s: str) -> bool:
    try:
        return 0 < float(timeout_s) < _LEAST_TIMEOUT_S
    except ValueError:
        return False


@schemathesis.check
def lines_conformance(context: Any, response: Any, case: Any) -> None:
    """Each line of an NDJSON answer fits the schema, and the last one says that the answer is whole."""
    if not response.headers.get("content-type", [""])[0].startswith(NDJSON_TYPE):
        return
    document = case.operation.schema.raw_schema
    line_schema = document["paths"]["/v1/segment"]["post"]["responses"]["200"]["content"][NDJSON_TYPE]["schema"]
    validator = Draft202012Validator({**line_schema, "components": document["components"]})
    lines = [json.loads(line) for line in response.content.splitlines()]
    for line in lines:
        validator.validate(line)
    assert lines[-1]["type"] in ("end", "error")
