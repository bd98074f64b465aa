"""A vLLM that dies is started again, a server that comes back gets its adapters again, and nobody's request is lost."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ingest.errors import UserError
from training.engines import Sampling
from training.engines.vllm import VllmEngine, VllmSettings
from training.engines.vllm_server import VllmServer
from training.models.base import base_path, load_base
from training.models.lora import LoraSettings, new_adapter, save_adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A peft adapter that changes what the base says."""
    model = new_adapter(load_base().model, LoraSettings(rank=8), 1)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("adapters") / "policy"
    save_adapter(model, path, {})
    return path


# ----- in process


def kill_workers(before: set[int]) -> None:
    for child in psutil.Process().children(recursive=True):
        if child.pid not in before and "resource_tracker" not in " ".join(child.cmdline()):
            child.kill()


@pytest.mark.slow
@pytest.mark.vllm
def test_a_vllm_that_dies_is_started_again_with_its_adapters_until_it_dies_too_often(adapter: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (make vllm)")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    settings = VllmSettings(max_model_len=128, max_adapters=1, max_rank=8, kv_cache_gib=0.25, max_restarts=1)
    engine = VllmEngine(base_path("rehearsal-tiny"), settings)

    async def said(name: str | None, length: int = 12) -> Any:
        return (await engine.sample([5, 6, 7], adapter=name, sampling=Sampling(length, temperature=0.0))).ids

    async def said_while_dying() -> Any:
        waiting = asyncio.create_task(said("policy", 100))
        await asyncio.sleep(0.05)
        kill_workers(before)
        return await waiting

    engine.load_adapter("policy", adapter)
    first = asyncio.run(said("policy", 100)), asyncio.run(said(None))
    assert first[0][:12] != first[1]
    assert asyncio.run(said_while_dying()) == first[0]
    assert asyncio.run(said(None)) == first[1]
    kill_workers(before)
    with pytest.raises(UserError, match="vLLM died 2 times"):
        asyncio.run(said(None))
    asyncio.run(engine.close())


# ----- over HTTP


class Server:
    """What `vllm serve` answers, for a model that says the name that it is asked by. It can go and come back."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.loaded: dict[str, str] = {}
        self.forgets = False
        self.start()

    def start(self) -> None:
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), port=self.port, log_level="error", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        """A restart forgets all adapters."""
        self.server.should_exit = True
        self.thread.join()
        self.loaded.clear()

    async def models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "tiny", "root": "/models/tiny", "max_model_len": 64}]})

    async def load(self, request: Request) -> Response:
        body = await request.json()
        self.loaded[body["lora_name"]] = body["lora_path"]
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        del self.loaded[(await request.json())["lora_name"]]
        return JSONResponse({})

    async def complete(self, request: Request) -> Response:
        model = (await request.json())["model"]
        if model != "tiny" and (self.forgets or model not in self.loaded):
            return JSONResponse({"error": {"message": f"no model {model}"}}, status_code=404)
        said = [1] if model == "tiny" else [2]
        return JSONResponse({"choices": [{"token_ids": said, "logprobs": {"token_logprobs": [-0.5]}}]})


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.stop()


def test_a_server_that_comes_back_gets_its_adapters_again(server: Server, adapter: Path) -> None:
    engine = VllmServer("tiny", f"http://127.0.0.1:{server.port}")
    engine.load_adapter("policy", adapter)

    async def ask(name: str | None) -> Any:
        return (await engine.sample([1, 2], adapter=name, sampling=Sampling(4))).ids

    async def both_while_it_restarts() -> Any:
        server.stop()
        waiting = [asyncio.create_task(ask(name)) for name in ("policy", None, "policy")]
        await asyncio.sleep(0.2)
        server.start()
        return await asyncio.gather(*waiting)

    assert asyncio.run(ask("policy")) == (2,) and asyncio.run(ask(None)) == (1,)
    assert asyncio.run(both_while_it_restarts()) == [(2,), (1,), (2,)]
    assert list(server.loaded.values()) == [str(adapter)]
    asyncio.run(engine.close())


def test_a_restart_between_requests_is_detected_by_the_missing_adapter(server: Server, adapter: Path) -> None:
    engine = VllmServer("tiny", f"http://127.0.0.1:{server.port}")
    engine.load_adapter("policy", adapter)
    server.stop()
    server.start()
    found = asyncio.run(engine.sample([1, 2], adapter="policy", sampling=Sampling(4)))
    assert found.ids == (2,) and list(server.loaded.values()) == [str(adapter)]
    server.forgets = True
    with pytest.raises(UserError, match="no model policy"):
        asyncio.run(engine.sample([1, 2], adapter="policy", sampling=Sampling(4)))


def test_a_server_that_stays_away_is_an_error_that_says_how_to_start_one(server: Server) -> None:
    engine = VllmServer("tiny", f"http://127.0.0.1:{server.port}", restart_seconds=0.0)
    server.stop()
    with pytest.raises(UserError, match="no vLLM server answers.*vllm serve tiny"):
        asyncio.run(engine.sample([1, 2], adapter=None, sampling=Sampling(4)))
    server.start()
