"""HTTP transport for a hosted judge: limits concurrency, retries, caches answers on disk, and counts costs.

It lies below the HTTP client, so RULER does not change. Overload (429) or an outage costs time, never a score. After
`max_tries` the run ends with a message. A later run continues from its last step and reads earlier answers from the
cache.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingest.errors import UserError

LOADED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes that are retried."""
REFUSED = frozenset({401, 402, 403, 404})
"""Status codes that are not retried: wrong key, account, address or model."""
LEDGER = "costs.jsonl"


class HostedSettings(BaseModel):
    """Settings for requests to a hosted judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_once: int = Field(8, ge=1, description="Concurrent calls per process.")
    max_tries: int = Field(40, ge=1, description="Attempts per call before the run ends with a message.")
    first_wait_seconds: float = Field(1.0, ge=0, description="Wait after the first failed attempt; doubles each time.")
    max_wait_seconds: float = Field(60.0, ge=0, description="Longest wait, unless Retry-After asks for more.")
    cache_dir: Path | None = Field(None, description="Directory that caches answers; null: no cache.")
    input_price: float = Field(0.0, ge=0, description="Price per million prompt tokens, for the cost report.")
    output_price: float = Field(0.0, ge=0, description="Price per million completion tokens.")


@dataclass(frozen=True)
class Costs:
    """Costs of judging: paid calls, cache hits, retries, tokens, money."""

    calls: int = 0
    cached: int = 0
    refusals: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: float = 0.0

    def __add__(self, other: Costs) -> Costs:
        return Costs(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


class PatientTransport(httpx.AsyncBaseTransport):
    """Sends each distinct request once, with retries.

    Raises UserError for a status in REFUSED, and after `max_tries`. `costs` is this process's account; `read_costs`
    sums over all processes that share a cache.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        settings: HostedSettings,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings, self.costs = settings, Costs()
        self._inner, self._sleep = inner, sleep
        self._slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        key = hashlib.blake2b(str(request.url).encode() + b"\n" + body, digest_size=16).hexdigest()
        kept = self._kept(key)
        if kept is not None:
            self._account(Costs(cached=1))
            return httpx.Response(200, content=kept, request=request)
        async with self._slot():
            answer = await self._patiently(request, body)
        if answer.status_code == 200:
            self._keep(key, answer.content)
            self._account(self._paid(answer.content))
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _patiently(self, request: httpx.Request, body: bytes) -> httpx.Response:
        """The first answer that is not retried, read completely."""
        why = ""
        for attempt in range(self.settings.max_tries):
            asked = httpx.Request(
                request.method, request.url, headers=request.headers, content=body, extensions=request.extensions
            )
            asked_to_wait = 0.0
            try:
                answer = await self._inner.handle_async_request(asked)
                await answer.aread()
            except httpx.TransportError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code in REFUSED:
                    told = f"HTTP {answer.status_code} {_told(answer)}"
                    raise UserError(f"the judge at {request.url.host} refuses: {told}")
                if answer.status_code not in LOADED:
                    # headers are dropped: the content is decoded already
                    return httpx.Response(answer.status_code, content=answer.content, request=request)
                why = f"HTTP {answer.status_code} {_told(answer)}"
                asked_to_wait = retry_after(answer.headers.get("retry-after", ""), time.time())
            self._account(Costs(refusals=1))
            own = min(self.settings.max_wait_seconds, self.settings.first_wait_seconds * 2 ** min(attempt, 20))
            await self._sleep(max(asked_to_wait, own * random.uniform(0.5, 1.0)))
        raise UserError(
            f"the judge at {request.url.host} did not answer in {self.settings.max_tries} tries (the last: {why}); "
            "start the same command again later: it continues where it stopped"
        )

    def _slot(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = loop, asyncio.Semaphore(self.settings.at_once)
        return self._slots[1]

    # ----- cache and costs

    def _kept(self, key: str) -> bytes | None:
        if self.settings.cache_dir is None:
            return None
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def _keep(self, key: str, content: bytes) -> None:
        if self.settings.cache_dir is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_bytes(content)
        partial.replace(path)

    def _path(self, key: str) -> Path:
        assert self.settings.cache_dir is not None
        return self.settings.cache_dir / key[:2] / f"{key}.json"

    def _paid(self, content: bytes) -> Costs:
        usage = _usage(content)
        asked, answered = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        price = (asked * self.settings.input_price + answered * self.settings.output_price) / 1e6
        return Costs(1, 0, 0, asked, answered, price)

    def _account(self, costs: Costs) -> None:
        self.costs += costs
        if self.settings.cache_dir is not None:
            self.settings.cache_dir.mkdir(parents=True, exist_ok=True)
            with (self.settings.cache_dir / LEDGER).open("a") as file:  # one short write: processes can share the file
                file.write(json.dumps(asdict(costs)) + "\n")


def read_costs(cache_dir: Path) -> Costs:
    """Costs of all processes that share a cache; zero if there is none."""
    path = cache_dir / LEDGER
    lines = path.read_text().splitlines() if path.is_file() else []
    return sum((Costs(**json.loads(line)) for line in lines), Costs())


def open_client(base_url: str, settings: HostedSettings) -> httpx.AsyncClient:
    """A client for an OpenAI-compatible endpoint."""
    transport = PatientTransport(httpx.AsyncHTTPTransport(), settings)
    return httpx.AsyncClient(transport=transport, base_url=base_url.rstrip("/") + "/")


def retry_after(value: str, now: float) -> float:
    """Seconds of a Retry-After header (RFC 9110, section 10.2.3: seconds or a date); 0 if it is invalid."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError):
        return 0.0


def _told(answer: httpx.Response) -> str:
    return " ".join(answer.text.split())[:200]


def _usage(content: bytes) -> dict[str, Any]:
    try:
        return json.loads(content).get("usage") or {}
    except (ValueError, AttributeError):
        return {}


# ----- rubrics


class Rubrics(BaseModel):
    """Content of the YAML file with rubrics: `default`, and `agents` by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: str | None = None
    agents: dict[str, str] = Field(default_factory=dict)


def read_rubric(path: Path, agent: str) -> str | None:
    """The rubric of an agent, or the file's default; None if it has neither. Raises UserError for an invalid file."""
    try:
        found = Rubrics.model_validate(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise UserError(f"the rubrics cannot be read: {error}") from error
    except (yaml.YAMLError, ValidationError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a rubrics file ({problem}); expected `default: text` and `agents: {{name: text}}`"
        ) from error
    return found.agents.get(agent, found.default)
