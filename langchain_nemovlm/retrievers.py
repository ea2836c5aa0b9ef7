"""From a question to the pages that answer it, and with them to a chat model that sees."""

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.vectorstores import VectorStoreRetriever

from langchain_nemovlm.pages import pages_to_message
from nemovlm import runtime
from nemovlm.pdf import Password


class PagePrompts(BaseRetriever):
    """A retriever that can hand a chat model the images of the pages that it finds."""

    def as_prompt(self, *, password: Password = None) -> Runnable[str, list[BaseMessage]]:
        """Return a runnable that makes a prompt of a question: the pages found for it as images, then the question.

        `retriever.as_prompt() | chat_model` answers. Its errors are those of `pages_to_message`.

        Args:
            password: For encrypted PDFs (or several, to be tried) that have to be rendered.
        """

        def prompt(question: str, documents: list[Document]) -> list[BaseMessage]:
            return [pages_to_message(question, documents, password=password)]

        def ask(question: str) -> list[BaseMessage]:
            return prompt(question, self.invoke(question))

        async def aask(question: str) -> list[BaseMessage]:
            return await runtime.in_thread(prompt, question, await self.ainvoke(question))

        return RunnableLambda(ask, aask)


class NemoVLMPageRetriever(PagePrompts, VectorStoreRetriever):
    """The retriever of a vector store, which can hand a chat model the images of the pages that it finds.

    The fields are those of LangChain's `VectorStoreRetriever` (`vectorstore`, `search_type`, `search_kwargs`) and `k`,
    the number of pages, which `search_kwargs` and the call may set as well.
    """

    k: int = 4

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return super()._get_relevant_documents(query, run_manager=run_manager, **self._search(kwargs))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return await super()._aget_relevant_documents(query, run_manager=run_manager, **self._search(kwargs))

    def _search(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"k": self.k} | self.search_kwargs | kwargs
