"""A server, and three clients that get the same vectors from it: nemovlm, plain HTTP, and the OpenAI SDK if installed.

pip install 'nemovlm[local,server]' openai
python server_and_clients.py
"""

import os
import socket
from importlib.util import find_spec
from threading import Thread

import httpx
import uvicorn

from nemovlm import Embedder
from nemovlm.server import make_app


def main() -> None:
    texts = ["Bread is baked at night.", "The office is closed on Sundays.", "The bakery is closed on Mondays."]
    local = Embedder(os.getenv("NEMOVLM_MODEL", "nemovlm/pocket"))
    query, vectors = local.embed_query("On which days is the office closed?"), {"no server": local.embed(texts)}

    listener = socket.create_server(("127.0.0.1", 0))  # any port that is free
    server = uvicorn.Server(uvicorn.Config(make_app(local), log_level="warning"))  # what `nemovlm serve` runs
    Thread(target=server.run, args=([listener],), daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    print(f"{local.model} is served at {url}")
    vectors["nemovlm"] = Embedder(local.model, base_url=url).embed(texts)
    body = {"model": f"{local.model}-passage", "input": texts}
    reply = httpx.post(f"{url}/embeddings", json=body, timeout=60)
    vectors["plain HTTP"] = [row["embedding"] for row in reply.json()["data"]]
    if find_spec("openai"):
        from openai import OpenAI

        made = OpenAI(base_url=url, api_key="none").embeddings.create(**body)
        vectors["OpenAI SDK"] = [row.embedding for row in made.data]
    print("             similarity of each text   largest difference")
    for client, rows in vectors.items():
        print(f"  {client:<11}", (rows @ query).round(4), f" {abs(vectors['no server'] - rows).max():.0e}")


if __name__ == "__main__":
    main()
