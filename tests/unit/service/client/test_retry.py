"""When a client tries again, and how long it waits."""

import pytest
from support.virtual_time import run_virtual, virtual_clock

from service.client.answer import AnswerGatherer
from service.client.connect import open_async_client, open_client
from service.client.grpc_client import GrpcClient
from service.client.policy import ClientPolicy
from service.client.rest import RestClient
from service.client.retry import retried_async
from service.domain.errors import CODES, ServiceError


def tries(errors: list[ServiceError], policy: ClientPolicy) -> tuple[int, float, str]:
    """Tries made, virtual seconds waited, and `ok` or the code of the last error."""

    async def run() -> tuple[int, float, str]:
        made = 0
        started_s = virtual_clock()

        async def work() -> None:
            nonlocal made
            made += 1
            if made <= len(errors):
                raise errors[made - 1]

        try:
            await retried_async(work, policy)
            outcome = "ok"
        except ServiceError as error:
            outcome = error.code
        return made, virtual_clock() - started_s, outcome

    return run_virtual(run())


def test_the_server_says_when() -> None:
    policy = ClientPolicy(jitter=lambda: 1.0)
    made, waited_s, outcome = tries([ServiceError("queue_full", "x", retry_after_s=7.5)], policy)
    assert (made, outcome) == (2, "ok")
    assert waited_s == pytest.approx(7.5, abs=0.01)


def test_waits_double_where_it_does_not_say() -> None:
    policy = ClientPolicy(jitter=lambda: 1.0, attempts=4, first_backoff_s=1.0)
    made, waited_s, outcome = tries([ServiceError("backend_down", "x")] * 9, policy)
    assert (made, outcome) == (4, "backend_down")
    assert waited_s == pytest.approx(1 + 2 + 4, abs=0.01)


@pytest.mark.parametrize("code", CODES)
def test_only_what_is_retryable_is_tried_again(code: str) -> None:
    made, _, _ = tries([ServiceError(code, "x")], ClientPolicy())
    assert made == (2 if CODES[code].is_retryable else 1)


def test_a_server_that_asks_for_too_much_is_not_waited_for() -> None:
    made, _, outcome = tries([ServiceError("draining", "x", retry_after_s=3600)], ClientPolicy())
    assert (made, outcome) == (1, "draining")


def test_an_answer_without_its_end_is_retryable() -> None:
    with pytest.raises(ServiceError) as cut:
        AnswerGatherer().answer()
    assert cut.value.spec.is_retryable


def test_the_scheme_chooses_the_client() -> None:
    with open_client("http://127.0.0.1:1") as rest, open_client("grpc://127.0.0.1:1") as rpc:
        assert isinstance(rest, RestClient)
        assert isinstance(rpc, GrpcClient)


@pytest.mark.parametrize("url", ["", "ftp://x", "127.0.0.1:50051", "grpc://", "http://[", "grpc://x:99999"])
def test_other_addresses_are_refused(url: str) -> None:
    for opener in (open_client, open_async_client):
        with pytest.raises(ServiceError, match="grpc://"):
            opener(url)
