"""A user's script, without `if __name__ == "__main__"`: embeds with vLLM, then ends as it is told to."""

import json
import sys
import time

from nemovlm import Embedder

folder, way, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
embedder = Embedder(folder, engine="vllm", dtype="float32", engine_options=options)
print(embedder.embed(["x"]).shape, flush=True)
if way == "exception":
    raise ValueError("something else went wrong")
if way == "close":
    embedder.close()
if way in {"close", "wait"}:
    print("ready", flush=True)
    time.sleep(300)
