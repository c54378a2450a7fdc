"""Requests to the Hub that are retried: which failures are transient, how long to wait, when to give up.

Loading and pushing share this policy. Which requests ``huggingface_hub`` retries differs between its lines, and neither
retries all of them, so the whole operation is repeated here; what it has already downloaded is in its cache.
"""

from __future__ import annotations

import email.utils
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hf_imgcls.errors import UserError, network_error
from hf_imgcls.tokens import hide_secrets

T = TypeVar("T")
logger = logging.getLogger(__name__)

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Patience:
    """How long a request is retried.

    Attributes:
        attempts: Of each request, the first included.
        first_wait_s: Before the second attempt; doubled each time.
        longest_wait_s: No wait is longer, whatever the Hub asks for.
    """

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 300.0

    def waits(self) -> Iterator[float | None]:
        """Yield the wait after each attempt; None after the last one."""
        for number in range(self.attempts - 1):
            yield min(self.first_wait_s * 2**number, self.longest_wait_s)
        yield None

    def lasts(self, fault: Fault, wait: float | None) -> bool:
        """Return whether the request is retried after a fault."""
        return fault.is_transient and wait is not None and fault.retry_after_s <= self.longest_wait_s


@dataclass(frozen=True)
class Fault:
    """What went wrong with a request.

    Attributes:
        status: The HTTP status; None when there was no answer.
        message: What the Hub or the network said, without secrets.
        is_transient: Whether the same request may succeed later.
        retry_after_s: How long the Hub asks to wait.
    """

    status: int | None
    message: str
    is_transient: bool
    retry_after_s: float = 0.0


def with_retries(
    request: Callable[[], T], what: str, patience: Patience, explain: Callable[[Fault, str], UserError | None]
) -> T:
    """Do something that may be repeated without harm.

    Args:
        request: What is done.
        what: What it is for, as it stands in ``"Could not ...; retrying"``.
        patience: When to give up.
        explain: Makes the error for the fault that ends it, given ``what``; None raises the request's own error.

    Raises:
        UserError: From ``explain``; or whatever ``request`` raises that is neither the Hub's nor the network's fault.
    """
    for wait in patience.waits():
        try:
            return request()
        except Exception as error:
            fault = diagnose(error)
            if fault is None:
                raise
            if not patience.lasts(fault, wait):
                explained = explain(fault, what)
                if explained is None:
                    raise
                raise explained from error
            sleep_before_retry(wait or 0, fault, what)
    raise AssertionError("the last attempt has returned or raised")


def call_hub(request: Callable[[], T], what: str, attempts: int, error_type: type[UserError]) -> T:
    """Load something from the Hub, with retries.

    Args:
        request: What is done; may be repeated.
        what: What it is for: "to ...".
        attempts: How often it is tried: ``--download_attempts``.
        error_type: Of the error when the Hub does not answer.

    Raises:
        UserError: The Hub did not answer. Everything else that ``request`` raises is raised as it is.
    """
    from huggingface_hub import HfFileSystem

    def ask() -> T:
        try:
            return request()
        except Exception:
            # It keeps the part of a listing that came before the fault, and would take it for the whole.
            HfFileSystem.clear_instance_cache()
            raise

    patience = Patience(attempts=attempts)

    def explain(fault: Fault, what: str) -> UserError | None:
        if not fault.is_transient:
            return None
        status = "" if fault.status is None else f" (HTTP {fault.status})"
        if fault.retry_after_s > patience.longest_wait_s:
            return error_type(
                f"to {what}, the Hub asks to wait {fault.retry_after_s:.0f} s{status}: {fault.message}",
                f"an answer within {patience.longest_wait_s:.0f} s",
                "run the same command again after that time; what was downloaded is kept",
            )
        return error_type(
            f"the Hub did not answer the request to {what}{status} after {patience.attempts} attempts: {fault.message}",
            "a connection to the Hub",
            "check the network and https://status.huggingface.co, then run the same command again: what was downloaded "
            "is kept. --download_attempts sets how often a request is tried",
        )

    return with_retries(ask, what, patience, explain)


def sleep_before_retry(wait: float, fault: Fault, what: str) -> None:
    """Wait, at least as long as the Hub asks, and say so."""
    seconds = max(wait, fault.retry_after_s)
    logger.warning("Could not %s; retrying in %.0f s: %s", what, seconds, fault.message)
    time.sleep(seconds)


def diagnose(error: BaseException) -> Fault | None:
    """Return what an exception of the client means, wherever in its chain of causes the answer is found.

    Returns:
        None for what has nothing to do with the Hub or the network.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, LocalTokenNotFoundError, OfflineModeIsEnabled

    chain = list(_causes(error))
    text = _join_messages(chain)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        return Fault(None, text, False)
    if any(isinstance(cause, LocalTokenNotFoundError) for cause in chain):
        return Fault(401, "there is no token", False)
    response: Any = next((r for cause in chain if (r := getattr(cause, "response", None)) is not None), None)
    if response is not None:
        status = int(response.status_code)
        # Addresses that files are sent to are signed for a while only; the next attempt gets new ones.
        has_expired = status == 403 and "X-Amz-" in str(response.url)
        return Fault(status, text, status in _TRANSIENT or has_expired, read_retry_after(response.headers))
    # The last: a file that is not in the cache, and the Hub could not be asked for it.
    lost = (network_error(), ConnectionError, TimeoutError, LocalEntryNotFoundError)
    if any(isinstance(cause, lost) for cause in chain):
        return Fault(None, text, not constants.HF_HUB_OFFLINE)
    if any(isinstance(cause, OSError) and "Consistency check failed" in str(cause) for cause in chain):
        return Fault(None, text, True)  # the answer was cut short
    if any(isinstance(cause, json.JSONDecodeError) for cause in chain):
        return Fault(None, f"the answer is no JSON: {text}", True)
    if isinstance(error, ValueError) and str(error).startswith(("Invalid metadata", "LFS batch API")):
        return Fault(400, text, False)
    return None


def _join_messages(chain: list[BaseException]) -> str:
    """What the client says and, behind it, what the Hub or the network said, in one line."""
    answered = [cause for cause in chain if getattr(cause, "response", None) is not None]
    said = [chain[0], *(answered or chain)[:1]]
    texts = [" ".join(str(item).split()) or type(item).__name__ for item in said]
    return hide_secrets(" ".join(dict.fromkeys(texts)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def read_retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the Hub asks to wait: ``Retry-After`` (number or date), or ``t`` of its ``RateLimit``.

    Source: RFC 9110, section 10.2.3; https://huggingface.co/docs/hub/rate-limits.
    """
    value = (headers.get("Retry-After") or "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
        except ValueError:
            return 0.0
    match = re.search(r"\br=0\b.*\bt=(\d+)", headers.get("RateLimit") or "")
    return float(match.group(1)) if match else 0.0
