"""Pictures of a running episode: plain text, and a fixed-size image for video recorders."""

from __future__ import annotations

import textwrap

import numpy as np
from numpy.typing import NDArray

from textenv.envs.slots import Slots
from textenv.episode import FinishReason

CANVAS_WIDTH, CANVAS_HEIGHT = 640, 400
_LINE_PIXELS, _LINE_CHARACTERS, _MARGIN_PIXELS = 18, 72, 16


def describe(slots: Slots, slot: int) -> str:
    """Prompt, answer so far and reward of one slot, as a few lines of text."""
    prompt = slots.prompts[slot]
    if prompt is None:
        return "(not reset)"
    ids = slots.tokens[slot, slots.prompt_lengths[slot] : slots.lengths[slot]].tolist()
    answer = slots.task.answers.decode_after(prompt.ids, ids, skip_special_tokens=False)
    reason = FinishReason(int(slots.finish_reasons[slot])).name.lower()
    return (
        f"prompt: {prompt.text}\n"
        f"answer: {answer}\n"
        f"{reason}, token {int(slots.response_tokens[slot])} of {slots.task.max_new_tokens}, "
        f"reward so far {float(slots.returns[slot]):.4f}"
    )


def draw(text: str) -> NDArray[np.uint8]:
    """The text on a canvas of fixed size, shape ``(400, 640, 3)`` uint8; the last lines where it is too long."""
    from PIL import Image, ImageDraw, ImageFont

    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.extend(textwrap.wrap(paragraph, _LINE_CHARACTERS) or [""])
    room = (CANVAS_HEIGHT - 2 * _MARGIN_PIXELS) // _LINE_PIXELS
    image = Image.new("RGB", (CANVAS_WIDTH, CANVAS_HEIGHT), (250, 250, 247))
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    for i, line in enumerate(lines[-room:]):
        shown = line.encode("latin-1", "replace").decode("latin-1")
        canvas.text((_MARGIN_PIXELS, _MARGIN_PIXELS + i * _LINE_PIXELS), shown, fill=(30, 30, 40), font=font)
    return np.asarray(image, dtype=np.uint8).copy()
