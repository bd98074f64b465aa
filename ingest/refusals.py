"""Every refusal of the receiver, for HTTP and gRPC alike.

OTLP clients retry only after HTTP 429, 502, 503 and 504, or gRPC UNAVAILABLE, or RESOURCE_EXHAUSTED with a RetryInfo;
any other error makes a correct client drop the data. So the receiver's own failures always use one of these, and a
request that would fail again in the same way never does.
Source: opentelemetry-proto, docs/specification.md (v1.11), "Failures" and "OTLP/gRPC Throttling".
"""

from __future__ import annotations

INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE, UNAUTHENTICATED = 3, 5, 8, 12, 14, 16


class Refused(Exception):
    """A request answered with an error: HTTP status, ``google.rpc`` code, message, and the seconds after which to
    send it again (None: never)."""

    def __init__(self, http: int, code: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.http, self.code, self.message, self.retry_after = http, code, message, retry_after


def invalid(message: str, http: int = 400) -> Refused:
    """The request cannot be understood, now or later."""
    return Refused(http, INVALID_ARGUMENT, message)


def too_large(limit: int) -> Refused:
    """The request exceeds the limit, counted after decompression."""
    return Refused(
        413, RESOURCE_EXHAUSTED, f"more than {limit} bytes after decompression; send smaller batches"
    )


def unauthenticated() -> Refused:
    """There is no token, or none that is accepted."""
    return Refused(401, UNAUTHENTICATED, "no valid bearer token in the Authorization header")


def too_much_waiting() -> Refused:
    """Back-pressure: senders are faster than the disk."""
    return Refused(429, RESOURCE_EXHAUSTED, "too much is waiting for the disk; send it again later", 1)


def disk_failed(problem: Exception) -> Refused:
    """The journal could not be written; nothing of the request is kept."""
    why = getattr(problem, "strerror", None) or str(problem)
    return Refused(503, UNAVAILABLE, f"the journal cannot be written: {why}; send it again later", 5)


def shutting_down() -> Refused:
    """The receiver is shutting down."""
    return Refused(503, UNAVAILABLE, "the receiver is shutting down; send it again later", 1)


def too_slow(seconds: float) -> Refused:
    """The body did not arrive in time (408 would make a correct client drop the data)."""
    return Refused(503, UNAVAILABLE, f"the request did not arrive within {seconds:.0f} seconds; send it again", 1)


def our_fault() -> Refused:
    """A bug in the receiver; its log has the traceback."""
    return Refused(503, UNAVAILABLE, "the receiver failed at this request; send it again later", 5)
