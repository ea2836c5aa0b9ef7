"""A chat model of LlamaIndex that sees."""

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock, LLMMetadata
from llama_index.core.llms import MockLLM
from pydantic import PrivateAttr


class Eyes(MockLLM):
    """A chat model that keeps the pictures that it is shown."""

    _pictures: list[bytes] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, context_window=128_000)

    def chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        blocks = [block for message in messages for block in message.blocks]
        self._pictures += [block.resolve_image().read() for block in blocks if isinstance(block, ImageBlock)]
        return ChatResponse(message=ChatMessage(role="assistant", content="answer"))
