"""Pages as pictures in a LangChain vector store, found by a question and handed to a chat model.

pip install 'nemovlm[local,langchain]'
python langchain_rag.py pdfs/staff-handbook.pdf "How many days of leave do I get?"

It prints the message that a chat model would get. With `pip install langchain langchain-openai`, a key, and
`--chat-model openai:gpt-5-mini` it asks that model, too; any other that sees will do.
"""

import argparse
import os

from langchain_core.vectorstores import InMemoryVectorStore

from langchain_nemovlm import NemoVLMEmbeddings, NemoVLMPageRetriever, NemoVLMPDFLoader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pdf", help="a PDF, or a folder of them")
    parser.add_argument("question", help="in quotes")
    parser.add_argument("--chat-model", help="such as openai:gpt-5-mini")
    args = parser.parse_args()

    folder = "page-pictures"  # the loader writes pictures there, and the embeddings look for them there
    pages = NemoVLMPDFLoader(args.pdf, content="markdown", image_dir=folder).load()
    embeddings = NemoVLMEmbeddings(model=os.getenv("NEMOVLM_MODEL", "nemovlm/pocket"), image_dir=folder)
    store = InMemoryVectorStore(embeddings)  # or FAISS, Chroma, Qdrant, LanceDB, ...
    for start in range(0, len(pages), 4):
        print(f"embedding pages by their pictures in {folder}: {start} of {len(pages)} done")
        store.add_documents(pages[start : start + 4])

    messages = NemoVLMPageRetriever(vectorstore=store, k=2).as_prompt().invoke(args.question)
    print("the message for a chat model:")
    for block in messages[0].content_blocks:
        print(" ", block.get("text") or f"[{block['mime_type']}, {len(block['base64']) * 3 // 4000} kB]")
    if args.chat_model:
        from langchain.chat_models import init_chat_model

        print(f"{args.chat_model}: {init_chat_model(args.chat_model).invoke(messages).text}")


if __name__ == "__main__":
    main()
