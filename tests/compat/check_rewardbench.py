"""rewardbench's scores beside ours: the same tiny models, the same file of pairs.

rewardbench runs as its command does (`rewardbench.rewardbench.rewardbench`: its own loading of the file, its own chat
formatting, left padding, double-BOS masking, accuracy), and its pipeline class once more as its scripts for v1 and v2
call it (truncation on, either side, right padding). Two things are not its own: it asks for a GPU by name, which is
answered with the CPU, and the core set of the hub is not fetched; the file is read as its ``--load_json`` does.

Known difference, checked too: an encoder with absolute positions, padded on the left as rewardbench's command does,
reads padding where its text should begin; its scores then depend on the company. Ours equal rewardbench's without
padding (batch size 1). A tie counts 0 in rewardbench's
accuracy (or 1, where rounding in two different batches breaks it) and one half in ours.
"""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from rewardbench.models.pipeline import RewardBenchPipeline
from rewardbench.rewardbench import Args, rewardbench
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding

TOLERANCE = 1e-5
POSITIONS, SHORT = 256, 40


def stay_on_the_cpu() -> None:
    """Make ``.to("cuda")`` of tokenised texts mean the CPU."""
    moved = BatchEncoding.to

    def to(self: BatchEncoding, device: Any, **options: Any) -> BatchEncoding:
        return moved(self, "cpu" if str(device).startswith("cuda") else device, **options)

    BatchEncoding.to = to


def run_command(name: str, *, cut: bool, batch_size: int) -> dict[str, Any]:
    """What rewardbench's command writes for one model."""
    rewardbench(
        Args(
            dataset="pairs.jsonl",
            load_json=True,
            model=name,
            not_quantized=True,
            torch_dtype="float32",
            max_length=SHORT if cut else POSITIONS,
            force_truncation=cut,
            batch_size=batch_size,
            output_dir="results/",
        )
    )
    lines = [json.loads(line) for line in Path(f"results/{name}_outputs.jsonl").read_text("utf-8").splitlines()]
    final = json.loads(Path(f"results/{name}.json").read_text("utf-8"))
    return {
        "chosen": [line["scores_chosen"] for line in lines],
        "rejected": [line["scores_rejected"] for line in lines],
        "accuracy": final["accuracy"],
        "texts": [line["text_chosen"] for line in lines],
    }


def run_pipeline(name: str, texts: list[str], *, side: str, padding_side: str) -> list[float]:
    """Scores of rewardbench's pipeline class with truncation, in batches of 8."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.truncation_side, tokenizer.padding_side = side, padding_side
    model = AutoModelForSequenceClassification.from_pretrained(name)
    pipe = RewardBenchPipeline("text-classification", model=model, tokenizer=tokenizer)
    found = []
    for start in range(0, len(texts), 8):
        scores = pipe(texts[start : start + 8], truncation=True, padding=True, max_length=SHORT)
        found += scores[:, 0].tolist()
    return found


def compare(what: str, theirs: Any, ours: Any) -> None:
    """State the largest difference; an error if it is too large."""
    worst = float(np.abs(np.array(theirs, dtype=float) - np.array(ours)).max())
    sys.stdout.write(f"  {what}: largest difference {worst:.1e} over scores of spread {np.std(ours):.2f}\n")
    assert worst < TOLERANCE, what


def check_accuracy(theirs: dict[str, Any], ours: dict[str, list[float]]) -> None:
    """Equal but for ties, which rewardbench counts as rounding in two different batches decides."""
    gaps = np.array(ours["chosen"]) - np.array(ours["rejected"])
    ties = float((np.abs(gaps) < TOLERANCE).mean())
    strict = float((gaps >= TOLERANCE).mean())
    assert strict - 1e-9 <= theirs["accuracy"] <= strict + ties + 1e-9, (strict, ties, theirs["accuracy"])
    without = (theirs["accuracy"] - strict) / max(ties, 1e-9)
    sys.stdout.write(
        f"  accuracy {theirs['accuracy']:.4f}, ours {strict + 0.5 * ties:.4f}: equal but for {ties:.1%} ties, of which "
        f"rewardbench counts {without:.0%} as right\n"
    )


def main() -> None:
    """Run our half beside, then rewardbench, and compare."""
    stay_on_the_cpu()
    logging.disable(logging.WARNING)  # the command reports its every batch
    root = Path(__file__).resolve().parents[2]
    own_python = os.environ["TEXTENV_PYTHON"]
    with tempfile.TemporaryDirectory() as name:
        subprocess.run([own_python, "-m", "tests.compat.rewardbench_ours", name], check=True, cwd=root)
        os.chdir(name)
        ours = json.loads(Path("ours.json").read_text("utf-8"))
        sys.stdout.write(f"rewardbench with transformers {transformers.__version__}\n")
        command = run_command("llama", cut=False, batch_size=8)
        for answer in ("chosen", "rejected"):
            compare(f"llama, command, left padding, {answer}", command[answer], ours["llama whole"][answer])
        check_accuracy(command, ours["llama whole"])
        compare(
            "llama, command, truncated on the left, chosen",
            run_command("llama", cut=True, batch_size=8)["chosen"],
            ours["llama left"]["chosen"],
        )
        for padding_side in ("left", "right"):
            scores = run_pipeline("llama", command["texts"], side="right", padding_side=padding_side)
            compare(f"llama, pipeline, {padding_side} padding, cut right", scores, ours["llama right"]["chosen"])
        alone = run_command("bert", cut=False, batch_size=1)
        compare("bert, command, one at a time, chosen", alone["chosen"], ours["bert whole"]["chosen"])
        check_accuracy(alone, ours["bert whole"])
        scores = run_pipeline("bert", alone["texts"], side="left", padding_side="right")
        compare("bert, pipeline, right padding, cut left", scores, ours["bert left"]["chosen"])
        padded = run_command("bert", cut=False, batch_size=8)["chosen"]
        apart = float(np.abs(np.array(padded) - np.array(alone["chosen"])).max())
        assert apart > 0.01, "left padding no longer changes an encoder's scores: say so in the text above"
        sys.stdout.write(f"  bert, left-padded by rewardbench: off by up to {apart:.2f} from its own unpadded scores\n")
        os.chdir(root)


if __name__ == "__main__":
    main()
