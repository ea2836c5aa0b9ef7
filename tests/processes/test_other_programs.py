"""In other people's programs: what they do to threads and processes, and what is embedded all the same."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.books import numbered


def run(program: str, *arguments: object) -> str:
    """What a program of its own prints, which must not fail."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


AFTER_THE_MAIN_THREAD = """
import atexit, sys, threading
atexit.register(lambda: print("last", embedder.embed_query("a question").shape))
from nemovlm import Embedder
atexit.register(lambda: print("at exit", embedder.embed_query("a question").shape))

embedder = Embedder(sys.argv[1], **({"base_url": sys.argv[2]} if sys.argv[2] else {}))
if sys.argv[3] == "used before":
    embedder.embed_query("warm")

def work():
    threading.main_thread().join()
    print("a thread", embedder.embed_query("a question").shape, len(list(embedder.stream(iter(["a", "b"])))))

threading.Thread(target=work).start()
"""


@pytest.mark.parametrize("engine", ["local", "remote"])
@pytest.mark.parametrize("use", ["first use", "used before"])
def test_threads_go_on_after_the_main_thread(engine: str, use: str, vl_folder: Path, served_vl: str) -> None:
    """Python waits for a script's threads, and for what is registered at exit, which may well want vectors."""
    model, url = (vl_folder, "") if engine == "local" else ("tiny-vl", served_vl.replace("127.0.0.1", "localhost"))
    assert run(AFTER_THE_MAIN_THREAD, model, url, use) == "a thread (128,) 2\nat exit (128,)\nlast (128,)\n"


GEVENT = """
from gevent import monkey
monkey.patch_all()
import asyncio, sys, time
import gevent
from nemovlm import Embedder, iter_pages

ticks = 0

def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)

other = gevent.spawn(tick)
embedder = Embedder(sys.argv[1], **({"base_url": sys.argv[2]} if sys.argv[2] else {}))
jobs = [gevent.spawn(embedder.embed_query, f"question {number}") for number in range(20)]
gevent.joinall(jobs, raise_error=True)
assert {job.value.shape for job in jobs} == {(128,)}
assert ticks > 1, "the other greenlets stood still"
other.kill()
print(len(list(embedder.stream(iter(["a"] * 300)))), "vectors")
print(asyncio.run(embedder.aembed_query("a question")).shape)
print(sum(1 for _ in iter_pages(sys.argv[3], workers=2)), "pages")
with gevent.Timeout(0.1, False):
    embedder.embed(["a long text " * 50] * 5000)
print(embedder.embed_query("after a timeout").shape)
"""


@pytest.mark.parametrize("engine", ["local", "remote"])
def test_gevent_has_put_greenlets_in_the_place_of_threads(
    engine: str, vl_folder: Path, served_vl: str, tmp_path: Path
) -> None:
    """gunicorn and Celery do so: vectors come, other greenlets go on, and `asyncio.run` works as before."""
    (tmp_path / "x.pdf").write_bytes(numbered(30))
    model, url = (vl_folder, "") if engine == "local" else ("tiny-vl", served_vl)
    said = run(GEVENT, model, url, tmp_path / "x.pdf")
    assert said.splitlines() == ["300 vectors", "(128,)", "30 pages", "(128,)"]
