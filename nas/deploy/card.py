"""The card of an exported network: README.md for people, model.json for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.deploy.formats import COUNTS, Written
from nas.deploy.trained import Trained
from recipes.budget import format_cost

MANY = 50  # classes that the card lists


def about(trained: Trained, written: Mapping[str, Written]) -> dict[str, Any]:
    """The content of model.json."""
    task = trained.description.get("task")
    return {
        "name": trained.name,
        "genotype": trained.description["text"],
        **({"classes": trained.classes} if task is None else {"task": task}),
        "preprocessing": trained.preprocessing.to_json(),
        "dataset": trained.description.get("dataset"),
        "test_accuracy": trained.description.get("test_accuracy"),
        **trained.cost(),
        **({"latency": trained.result["latency"]} if "latency" in trained.result else {}),
        "command": trained.command,
        "files": {name: list(one.files) for name, one in written.items()},
    }


def card(facts: Mapping[str, Any], written: Mapping[str, Written]) -> str:
    """The text of README.md; `facts` are those of `about`."""
    p = facts["preprocessing"]
    rows, columns = p["image_size"]
    kind = {1: "grey", 3: "RGB"}.get(p["in_chans"], f"{p['in_chans']} channels")
    low, high = p["range"]
    scale = f"less {low:g}, " * (low != 0) + f"divided by {high - low:g}"
    outputs, tag, meaning = _outputs(facts)
    accuracy = "not known" if facts["test_accuracy"] is None else f"{facts['test_accuracy']:.2f} %"
    of = f" of {facts['dataset']}" if facts["dataset"] else ""
    known = [
        ("test accuracy", f"{accuracy}, on the test images{of}"),
        ("parameters", f"{facts['parameters']:,}"),
        ("multiply-accumulates", f"{facts['macs']:,} for one picture"),
        *_latency(facts),
        outputs,
        ("architecture", f"`{facts['genotype']}`"),
    ]
    table = "\n".join(f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in known)
    command = f"    {facts['command']}" if facts["command"] else "A call of `nas.train` with data of its own."
    return f"""\
---
library_name: timm
tags:
- {tag}
---

# {facts["name"]}

| | |
| --- | --- |
{table}

## Pictures

`images` below are float32 of the shape (N, {p["in_chans"]}, {rows}, {columns}), {kind}: each picture is
resized as a whole to {columns} x {rows} pixels (bicubic), {scale}, and normalised by channel,
(x - mean) / std, with

    mean = {p["mean"]}
    std = {p["std"]}

{meaning}; `model.json` has all this for programs.

## Files

{_files(written)}

## How it was trained

{command}
"""


def _outputs(facts: Mapping[str, Any]) -> tuple[tuple[str, str], str, str]:
    """What the outputs are: a line of the table, the tag, and what is done with them."""
    if "task" in facts:
        return ("task", f"{facts['task']}"), "image-feature-extraction", "The outputs are those of the task"
    classes = facts["classes"]
    listed = ", ".join(classes[:MANY]) + (", ... (all in model.json)" if len(classes) > MANY else "")
    meaning = "Probabilities are the softmax of the outputs"
    return ("classes", f"{len(classes)}: {listed}"), "image-classification", meaning


def _files(written: Mapping[str, Written]) -> str:
    sections = []
    for one in written.values():
        pictures = " and ".join(map(str, COUNTS))
        checked = (
            "Not run after it was written: onnxruntime is not installed there."
            if one.difference is None
            else f"Its outputs for {pictures} pictures differ from the network's by at most "
            f"{one.difference:.2g}."
        )
        sections.append(f"`{'`, `'.join(one.files)}`: {checked}\n\n```python\n{one.use}\n```")
    return "\n\n".join(sections)


def _latency(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run measured of the time that a picture takes, if it did."""
    if "latency" not in facts:
        return []
    texts = {kind: format_cost("latency", value) for kind, value in facts["latency"].items()}
    return [("latency", ", ".join(f"{text} {kind}" for kind, text in texts.items()))]
