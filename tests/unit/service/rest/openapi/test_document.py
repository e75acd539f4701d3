"""The API document is complete: every route, every status, every problem; and answers are what it says."""

from __future__ import annotations

from service.domain.errors import CODES, Kind
from service.domain.options import OPTION_NAMES, RLE
from service.formats.choose import MEDIA_TYPES
from service.rest.errors import status_of
from service.rest.openapi.document import DOCUMENTED
from service.rest.openapi.requests import upload_request_body
from service.rest.openapi.responses import SEGMENT_CODES, answer_response, problem_responses

CONTRACT_STATUSES = {
    "bad_option": 400, "empty_file": 400, "missing_file": 400, "malformed_body": 400, "url_refused": 400,
    "unauthenticated": 401,
    "forbidden": 403, "route_not_found": 404, "job_not_found": 404, "job_expired": 404, "method_not_allowed": 405,
    "not_acceptable": 406, "slow_upload": 408, "slow_reader": 408, "idempotency_mismatch": 409,
    "idempotency_in_progress": 409, "job_not_ready": 409, "upload_too_large": 413, "not_mp4": 415,
    "unsupported_codec": 415,
    "unsupported_content_type": 415, "unsupported_encoding": 415, "queue_full": 429, "too_many_requests": 429,
    "cannot_meet_deadline": 429, "headers_too_large": 431, "client_gone": 499, "internal": 500, "warming_up": 503,
    "draining": 503, "backend_down": 503, "decoder_gone": 503, "deadline_exceeded": 504, "storage_full": 507,
}  # fmt: skip


def test_every_code_has_the_status_of_the_contract():
    for code, spec in CODES.items():
        assert status_of(code) == (422 if spec.kind is Kind.UNUSABLE_CLIP else CONTRACT_STATUSES[code]), code


def test_every_code_of_a_route_is_documented_under_its_status():
    responses = answer_response() | problem_responses(*SEGMENT_CODES)
    for code in SEGMENT_CODES:
        assert f"`{code}`" in responses[status_of(code)]["description"]
    documented = " ".join(response["description"] for response in responses.values())
    missing = {code for code in CODES if f"`{code}`" not in documented}
    assert missing == {
        "route_not_found", "method_not_allowed", "client_gone", "job_not_found", "job_expired", "job_not_ready",
        "forbidden",
    }  # fmt: skip


def test_overload_documents_retry_after():
    responses = problem_responses("queue_full", "draining", "bad_option")
    assert "Retry-After" in responses[429]["headers"]
    assert "Retry-After" in responses[503]["headers"]
    assert "headers" not in responses[400]


def test_every_option_is_documented():
    form = upload_request_body()["content"]["multipart/form-data"]["schema"]
    assert tuple(form["properties"]) == ("video", *OPTION_NAMES)
    assert "rle" in upload_request_body(RLE)["content"]["multipart/form-data"]["schema"]["properties"]


def test_every_format_has_its_media_type():
    content = answer_response()[200]["content"]
    assert set(content) == {media_type.partition(";")[0] for media_type in MEDIA_TYPES.values()}


def test_every_documented_body_explains_itself():
    assert all(model.__doc__ for model in DOCUMENTED)
