"""Index a folder of PDFs, ask questions, and see which pages answer them.

pip install 'nemovlm[local,index]'
python index_and_ask.py pdfs "How many days of leave do I get?" --pictures best-pages

The index is kept in ./page-index, and the next run embeds only what is new. Without a GPU a page takes some
seconds, because it is embedded as picture and text; `--modality text` embeds its text alone, which is quick.
"""

import argparse
import os
import re
from pathlib import Path

from nemovlm import Embedder, PageIndex


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pdfs", help="a folder of PDFs, or one PDF")
    parser.add_argument("questions", nargs="+", help="each in quotes")
    parser.add_argument("--modality", choices=["text", "image", "text_image"], help="what of a page is embedded")
    parser.add_argument("--pictures", type=Path, help="a folder to save the best page for each question in")
    args = parser.parse_args()
    index = PageIndex("page-index", Embedder(os.getenv("NEMOVLM_MODEL", "nemovlm/pocket")))
    print(f"indexing {args.pdfs} with {index.embedder.model}; a page may take some seconds")
    report = index.add(
        args.pdfs, modality=args.modality, progress=lambda done, of: print(f"{done}/{of} pages", end="\r", flush=True)
    )
    print(report, *report.failed, sep="\n")
    for question in args.questions:
        print(f"\n{question}")
        words = re.findall(r"\w{4,}", question.lower())
        for rank, hit in enumerate(index.search(question, k=3)):
            name = f"{Path(hit.document).stem} page {hit.page + 1}"
            line = max(hit.text.splitlines(), key=lambda line: sum(word in line.lower() for word in words), default="")
            print(f"  {hit.score:.3f}  {name}: {line}")
            if args.pictures and rank == 0:
                args.pictures.mkdir(parents=True, exist_ok=True)
                hit.load().image.save(args.pictures / f"{name}.png")


if __name__ == "__main__":
    main()
