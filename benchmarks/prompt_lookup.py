"""What prompt lookup gains where a reply repeats its prompt, and costs where it does not.

    python benchmarks/prompt_lookup.py [MODEL] [--tokens 128] [--runs 6] [--drafted 10]
                                       [--dtype float32]

Each task is answered with and without it in turn, by an engine worker as the page has it. In
float32 the two replies have to be the same; where products round more, several tokens at once may
be rounded in another way than one, and a reply that turns at a near tie is told. The figures are
the medians of their decode speeds, and of the ratio of each pair. Prints rows for
benchmarks/RESULTS.md, and one JSON object in the last line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modules.engine.local import LocalEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest, LoadModel, TokenChunk
from modules.loader.options import LoadOptions

_TEXT = (
    "The lighthouse of Port Ellery was built in 1831 after the wreck of the Margaret Rose. Its "
    "first keeper, Tobias Wren, lived there with his wife and five children for thirty years. He "
    "wrote down the weather every morning, and his notebooks are now kept in the town museum. In "
    "1904 the oil lamp was replaced by an electric light, and in 1987 the last keeper left. Today "
    "the lighthouse is looked after by volunteers, who open it to visitors in the summer."
)
_TASKS = {
    "summarising": (f"Summarise this text in a few sentences.\n\n{_TEXT}", 0.0),
    "editing": (f"Repeat this text, but write Anna Wren in place of Tobias Wren.\n\n{_TEXT}", 0.0),
    "no help": (
        "Write a story about a fisherman and a dragon, with no sentence like another.",
        0.9,
    ),
}
"""What is asked, and at what temperature. By chance, the last repeats little."""


async def reply(engine: LocalEngine, task: str, drafted: int, tokens: int) -> tuple[str, float]:
    """A reply, and how many tokens a second it came at."""
    asked, temperature = _TASKS[task]
    params = SamplingParams.neutral(
        temperature=temperature,
        seed=1,
        max_new_tokens=tokens,
        prompt_lookup_num_tokens=drafted,
    )
    prompt = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    text, speed = "", 0.0
    request = GenerateRequest(f"{task}-{drafted}", prompt, params, special_tokens=False)
    async for event in engine.generate(request):
        match event:
            case TokenChunk():
                text += event.text
            case Finished():
                speed = event.usage.tokens_per_s
    return text, speed


async def measure(engine: LocalEngine, task: str, options: argparse.Namespace) -> dict[str, float]:
    pairs, texts = [], set()
    for run in range(options.runs + 1):
        speeds = {}
        # Either goes first in turn, so that neither gains by what else the machine does.
        for drafted in sorted((0, options.drafted), reverse=run % 2 == 0):
            text, speeds[drafted] = await reply(engine, task, drafted, options.tokens)
            texts.add(text)
        if run:  # the first pair warms up
            slow, fast = speeds[0], speeds[options.drafted]
            pairs.append((slow, fast, fast / slow))
    if len(texts) > 1 and options.dtype == "float32":
        raise SystemExit(f"The replies to the task {task!r} are not the same.")
    if len(texts) > 1:
        print(f"--- {task}: with drafts another reply, as their products are rounded otherwise.")
    print(f"--- {task}: {texts.pop()}\n")
    names = ("without", "with", "ratio")
    return dict(zip(names, map(statistics.median, zip(*pairs, strict=True)), strict=True))


async def run(options: argparse.Namespace) -> None:
    engine = LocalEngine()
    info = await engine.load(LoadModel(str(options.model), LoadOptions(dtype=options.dtype)))
    figures = {task: await measure(engine, task, options) for task in _TASKS}
    await engine.close()
    print("| task | tok/s without | tok/s with | ratio |\n|---|---|---|---|")
    for task, row in figures.items():
        print(f"| {task} | {row['without']:.1f} | {row['with']:.1f} | {row['ratio']:.2f} |")
    print(json.dumps({"model": info.name, "device": info.device, "dtype": info.dtype, **figures}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = ROOT / "models" / "SmolLM2-135M-Instruct"
    parser.add_argument("model", type=Path, nargs="?", default=default)
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32"))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--drafted", type=int, default=10)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
