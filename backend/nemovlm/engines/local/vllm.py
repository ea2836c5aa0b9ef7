"""The local engine on vLLM's pooling runner: continuous batching on a CUDA GPU, or on a CPU with vLLM's CPU build.

Items are prepared by our own code in worker threads, as for every local engine. The model runs in processes of
vLLM's own.
"""

import asyncio
import atexit
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemovlm.engines.base import Answer, Outcome, Placement
from nemovlm.engines.local.vllm_arguments import BATCH_TOKENS, ENVIRONMENT, dtype_on, engine_arguments, refuse_fixed
from nemovlm.engines.local.watchdog import GRACE_SECONDS, with_parent_watchdog
from nemovlm.engines.pipeline import Pipeline
from nemovlm.errors import ConfigurationError, EngineError, EngineUnavailableError, MissingExtraError
from nemovlm.models.base import VllmInput
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.models.families import family_of
from nemovlm.settings import Settings

# What vLLM reads when it is imported. Its processes are started afresh, because this one has threads, and a fork would
# copy their locks.
for _name, _value in {
    **ENVIRONMENT,
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}.items():
    os.environ.setdefault(_name, _value)

try:
    from vllm import PoolingParams
    from vllm.config import PoolerConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError

except ImportError as missing:
    raise MissingExtraError(f"the vllm engine cannot be loaded ({missing}): pip install 'nemovlm[vllm]'") from missing

# Requests that vLLM has at once: enough texts for a full step, and the next.
_SLOTS = 1024
_UNIT = 1e-3  # how far from unit length a vector may be, in the dtype that the model computes in


class VllmEngine:
    """Runs a checkpoint in vLLM. See `nemovlm.engines.base.Engine` for the contract. It raises like `placement`."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self._checkpoint = checkpoint
        self._card = checkpoint.card
        self._settings = settings
        self._device, _ = self.placement(settings)
        self._numbers = count()

    @staticmethod
    def placement(settings: Settings) -> Placement:
        """Return what vLLM was built for, and what the model computes in.

        Raises:
            EngineUnavailableError: vLLM has no device to run on.
            ConfigurationError: An option is none that it knows, or has a setting of its own.
        """
        device = _pick_device(settings.device)
        _check_options(settings.engine_options or {})
        return Placement(device, dtype_on(device, settings))

    async def start(self) -> None:
        """Fetch the checkpoint if need be, and start vLLM's processes.

        Raises:
            CheckpointError: The checkpoint is not what its card says, or cannot be fetched.
            EngineError: vLLM could not start.
        """
        await asyncio.to_thread(self._load)
        self._pipeline = Pipeline(self._prompts.prepare, _oldest, self._compute, _SLOTS)
        self.embed = self._pipeline.embed
        self._loop = asyncio.get_running_loop()
        atexit.register(self._end)  # for those who never close

    async def close(self) -> None:
        """End vLLM's processes, and wait until they are gone."""
        self._pipeline.close()
        atexit.unregister(self._end)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        if reader := self._llm.output_handler:  # it would log the end of the process that it reads from as a failure
            self._loop.call_soon_threadsafe(reader.cancel)
        self._llm.shutdown(timeout=GRACE_SECONDS)

    def _load(self) -> None:
        folder = self._checkpoint.fetch()
        family = family_of(self._card.architecture)
        family.check(folder, self._card)
        family.check_weights(folder)
        family.register_with_vllm()
        self._prompts = family.vllm_prompts(folder, self._card, max_tokens=self._settings.max_tokens)
        arguments = self._arguments(str(folder))
        try:
            with with_parent_watchdog():
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except Exception as error:  # vLLM has no common base for what may go wrong here
            raise _why(error) from error

    def _arguments(self, folder: str) -> dict[str, Any]:
        arguments = engine_arguments(folder, self._card, self._settings, self._device, whole_images=False)
        pooler = PoolerConfig(**arguments["pooler_config"])
        return arguments | {"pooler_config": pooler, "disable_log_stats": True} | (self._settings.engine_options or {})

    async def _compute(self, items: Sequence[VllmInput]) -> Sequence[Outcome]:
        return [await self._answer(item) for item in items]

    async def _answer(self, item: VllmInput) -> Outcome:
        try:
            async for output in self._llm.encode(
                item.prompt, PoolingParams(task="embed"), request_id=f"nemovlm-{next(self._numbers)}"
            ):
                vector: NDArray[np.float32] = output.outputs.data.float().cpu().numpy()
        except EngineDeadError:
            return EngineError(
                "vLLM's engine process has died, its log says why; if memory was short, lower batch_tokens; close the "
                "embedder and use it again to start another"
            )
        except Exception as error:  # whatever befell this request
            return EngineError(f"vLLM failed: {_line(error.__cause__ or error)}")
        if len(output.prompt_token_ids) != item.tokens:
            return EngineError(
                f"vLLM embedded {len(output.prompt_token_ids)} tokens instead of {item.tokens}; is it a version that "
                "cuts images in another way?"
            )
        if abs(length := float(np.linalg.norm(vector)) - 1) > _UNIT:  # not so for what is not finite: found out later
            return EngineError(f"vLLM answered with a vector whose length is {length + 1:.3f} instead of 1")
        return Answer(vector, item.tokens)


def _oldest(waiting: Mapping[int, VllmInput]) -> list[int]:
    """VLLM makes its own batches, so each item goes there by itself."""
    return [next(iter(waiting))]


def _pick_device(wanted: str) -> str:
    kind: str = current_platform.device_type
    if kind not in BATCH_TOKENS:
        raise EngineUnavailableError(
            "vLLM found no CUDA GPU to run on; take engine='transformers', or install vLLM's CPU build (its "
            "installation guide has a page for CPUs)"
        )
    if wanted not in {"auto", kind}:
        raise EngineUnavailableError(
            f"vLLM runs on {kind!r} here, not on {wanted!r}"
            + ("; to choose among GPUs, set CUDA_VISIBLE_DEVICES" if wanted.startswith("cuda:") else "")
        )
    return kind


def _check_options(options: Mapping[str, Any]) -> None:
    known = set(AsyncEngineArgs.__dataclass_fields__)
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ConfigurationError(
                f"vLLM has no engine option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    refuse_fixed(options, "engine_options")


def _why(error: Exception) -> EngineError:
    """Return what to tell of a start that failed."""
    said = _line(error)
    if "out of memory" in said.lower() or "memory utilization" in said:
        return EngineError(
            f"vLLM has too little memory ({said}); lower batch_tokens or max_tokens, or set "
            "engine_options={'gpu_memory_utilization': ...} to a share that is free"
        )
    if "are not supported" in said and "architectures" in said:
        return EngineError(f"this vLLM does not know the model ({said}); nemovlm needs vllm>=0.32")
    if "Engine core" in said:  # it failed in another process, which has told the reason to standard error alone
        return EngineError(
            "vLLM's engine process could not start, its log above says why; if memory was short, lower batch_tokens, "
            "or engine_options={'gpu_memory_utilization': ...} to a share of it that is free"
        )
    return EngineError(f"vLLM could not start: {said}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
