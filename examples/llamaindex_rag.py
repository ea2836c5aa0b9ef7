"""Pages as pictures in a LlamaIndex index, found by a question.

pip install 'nemovlm[local,llamaindex]'
python llamaindex_rag.py pdfs/staff-handbook.pdf "How many days of leave do I get?"

A chat model that sees gets these pages by `index.as_query_engine(llm=..., multimodal=True).query(question)`.
"""

import os
import sys

from llama_index.core import VectorStoreIndex

from llamaindex_nemovlm import NemoVLMEmbedding, NemoVLMPDFReader


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    pdf, question = sys.argv[1:]

    nodes = NemoVLMPDFReader(image_dir="page-pictures").load_nodes(pdf)  # one a page, with its picture and its text
    print(f"{pdf}: {len(nodes)} pages", flush=True)

    # Called with nodes, the embedding embeds each by its picture; an index would take their text.
    embedding = NemoVLMEmbedding(model=os.getenv("NEMOVLM_MODEL", "nemovlm/pocket"), embed_batch_size=4)
    index = VectorStoreIndex(embedding(nodes, show_progress=True), embed_model=embedding)

    for found in index.as_retriever(similarity_top_k=2).retrieve(question):
        page = found.node
        print(f"{found.score:.3f}  {page.metadata['file_name']} page {page.metadata['page_label']}")
        print("       picture:", page.image_path)
        print("       text:   ", page.text[:90].replace("\n", " "))


if __name__ == "__main__":
    main()
