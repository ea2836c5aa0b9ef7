"""What servers are asked beside embeddings: health, facts, and which models they have."""

import asyncio
from contextlib import suppress

import httpx

from nemovlm.engines.remote.client import describe_failure
from nemovlm.engines.remote.pool import UpstreamPool
from nemovlm.errors import NemoVLMError, ProtocolError, ServerError
from nemovlm.settings import Settings
from nemovlm.wire.address import Address
from nemovlm.wire.problems import Problem, read_problem
from nemovlm.wire.replies import ServedModel, read_models

_HINT_SECONDS = 5.0  # an error may be told this much later if it becomes clearer
_MOST_SHOWN = 8
VLLM = "vLLM's own server"
_PRODUCTS = {
    "vllm": VLLM,
    "sglang": "SGLang",
    "library": "Ollama",
    "llamacpp": "llama.cpp",
    "organization_owner": "LM Studio",
    "infinity": "Infinity",
}
"""Servers by the owner that they name. None of them knows `input_type`, and none refuses it."""
_NOBODY_THERE = frozenset({502, 503, 504})  # a gateway is, the server behind it is not


async def ask(settings: Settings, address: Address, route: str) -> httpx.Response:
    """Return the reply to one GET below the base URL of `address`, whatever it is.

    Raises:
        ServerError: There is none.
    """
    pool = await asyncio.to_thread(UpstreamPool, settings)
    try:
        return await pool.get(route, address)
    except httpx.HTTPError as error:
        raise ServerError(f"{address.host} could not be reached: {describe_failure(error)}") from error
    finally:
        await pool.close()


async def served_models(settings: Settings) -> list[ServedModel]:
    """Return the models that the first server has.

    Raises:
        EngineError: It cannot be asked.
    """
    address = settings.addresses[0]
    reply = await ask(settings, address, "/models")
    with suppress(ProtocolError):
        if reply.is_success:
            return read_models(reply.content)
    secrets = settings.secrets_for(address)
    raise read_problem(address.host, reply.status_code, reply.headers, reply.content, secrets).error("text")


async def recognize(pool: UpstreamPool, address: Address) -> str | None:
    """Return what product a server is: "" if it does not say, None if nobody is there (yet).

    It is asked for its models, as whose owner many servers name themselves.
    """
    try:
        async with asyncio.timeout(_HINT_SECONDS):
            reply = await pool.get("/models", address)
            if reply.status_code in _NOBODY_THERE:
                return None
            owners = {model.owner for model in read_models(reply.content)} if reply.is_success else set()
            product = next((_PRODUCTS[owner] for owner in owners if owner in _PRODUCTS), "")
            # This route is a NIM's, whatever that is made of.
            return "" if product and (await pool.get("/health/ready", address)).is_success else product
    except ProtocolError:
        return ""
    except (httpx.HTTPError, TimeoutError):
        return None


async def hint_at_models(pool: UpstreamPool, settings: Settings, model: str, problem: Problem) -> str:
    """Return which models the server does have, if `problem` is that it lacks the one that was asked for."""
    if problem.status != httpx.codes.NOT_FOUND:
        return ""
    address = next(known for known in settings.addresses if known.host == problem.server)
    with suppress(httpx.HTTPError, NemoVLMError, TimeoutError):
        async with asyncio.timeout(_HINT_SECONDS):
            served = [found.id for found in read_models((await pool.get("/models", address)).content)]
        if served and model not in served:
            return f"; it serves: {', '.join(served[:_MOST_SHOWN])}"
    return ""
