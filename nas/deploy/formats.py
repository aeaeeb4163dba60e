"""The files that a network is exported as, each read back and compared with the network."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nas.deploy.trained import Trained
from nas.runs.files import write_json, write_text
from nas.timm_string import TIMM_WEIGHTS, arch_of, timm_code, timm_model, timm_weights
from nas.training.model import load, save, size_of
from nas.training.weights import NETWORK
from recipes import InputError

COUNTS = (1, 3)  # of the pictures that a file is compared with the network on
TOLERANCE = 1e-4  # of the largest output


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        files: their names.
        use: a program that uses them.
        difference: the largest one of the outputs from those of the network, over COUNTS pictures of noise;
            None where nothing is installed that could run the file.
    """

    files: tuple[str, ...]
    use: str
    difference: float | None


def onnx(trained: Trained, folder: Path) -> Written:
    """An ONNX file for any number of pictures, with classes and preprocessing in its metadata."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"the format onnx needs the package(s) {', '.join(missing)}: pip install 'reinmax-nas[export]'"
        )
    import onnx as library

    path = folder / "model.onnx"
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            trained.network,
            (trained.example(2),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=_any_number(),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    library.helper.set_model_props(
        model,
        {
            "classes": json.dumps(trained.classes),
            "preprocessing": json.dumps(trained.preprocessing.to_json()),
        },
    )
    library.save(model, path)
    difference = None
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        difference = _compare(
            trained, "onnx", lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])
        )
    use = """\
import json, onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
(logits,) = session.run(["logits"], {"images": images})  # float32 NumPy array"""
    return Written((path.name,), use, difference)


def torch_export(trained: Trained, folder: Path) -> Written:
    """A program of torch.export for any number of pictures."""
    path = folder / "model.pt2"
    with _quiet(), torch.no_grad():
        program = torch.export.export(trained.network, (trained.example(2),), dynamic_shapes=_any_number())
        torch.export.save(program, path)
        read: Any = torch.export.load(path).module()
        difference = _compare(trained, "torch", read)
    use = """\
import torch

logits = torch.export.load("model.pt2").module()(images)"""
    return Written((path.name,), use, difference)


def torchscript(trained: Trained, folder: Path) -> Written:
    """A program of TorchScript."""
    path = folder / "model.ts"
    with _quiet(), torch.no_grad():
        try:
            script: Any = torch.jit.script(trained.network)
        except RuntimeError as error:
            if "not supported" in str(error):  # torch says so where its Python is too new
                raise InputError(f"torch offers no TorchScript here: {error}") from None
            raise
        torch.jit.save(script, path)
        difference = _compare(trained, "torchscript", torch.jit.load(path))
    use = """\
import torch

logits = torch.jit.load("model.ts")(images)"""
    return Written((path.name,), use, difference)


def safetensors(trained: Trained, folder: Path) -> Written:
    """The weights with all that `nas.load` needs."""
    save(folder / NETWORK, trained.network, trained.description)
    use = f"""\
import nas

model = nas.load("{NETWORK}")
logits = model(images)

# or of picture files: nas predict . pictures/"""
    return Written((NETWORK,), use, _compare(trained, "safetensors", load(folder / NETWORK)))


def timm(trained: Trained, folder: Path) -> Written:
    """A program that needs timm alone, where timm has the blocks of the network; else a folder that
    timm.create_model reads where this package, which has the architecture, is imported."""
    try:
        arch = arch_of(trained.description)
    except InputError:  # it has no such blocks
        return _timm_folder(trained, folder)
    weights = {name: t.contiguous() for name, t in timm_weights(trained.network, arch).items()}
    save_file(weights, folder / TIMM_WEIGHTS)
    config = {**trained.preprocessing.for_timm(), "num_classes": len(trained.classes)}
    config |= {"first_conv": "conv_stem", "classifier": "classifier", "label_names": trained.classes}
    code = timm_code(arch) + f"model.pretrained_cfg = model.default_cfg = {config!r}\n"
    write_text(folder / "timm_model.py", code)
    read = timm_model(arch)
    read.load_state_dict(load_file(folder / TIMM_WEIGHTS))
    use = """\
import timm
from timm_model import model  # needs timm and safetensors, nothing else

transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"""
    files = ("timm_model.py", TIMM_WEIGHTS)
    return Written(files, use, _compare(trained, "timm", read))


def _timm_folder(trained: Trained, folder: Path) -> Written:
    weights = {name: tensor.contiguous() for name, tensor in trained.network.state_dict().items()}
    config = trained.network.pretrained_cfg
    kept = {name: config[name] for name in ("first_conv", "classifier")}
    write_json(
        folder / "config.json",
        {
            "architecture": "nas_net",
            "num_classes": len(trained.classes),
            "num_features": trained.network.num_features,
            "label_names": trained.classes,
            "model_args": {
                "genotype": trained.description["text"],
                "space": trained.description["genotype"]["space"],
                **size_of(trained.description),
            },
            "pretrained_cfg": trained.preprocessing.for_timm() | kept | {"num_classes": len(trained.classes)},
        },
    )
    save_file(weights, folder / NETWORK, {"nas": json.dumps(trained.description)})
    import timm as library

    read = library.create_model(f"local-dir:{folder}", pretrained=True).eval()
    use = """\
import nas, timm  # nas registers the architecture

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"""
    return Written(("config.json", NETWORK), use, _compare(trained, "timm", read))


FORMATS: dict[str, Callable[[Trained, Path], Written]] = {
    "onnx": onnx,
    "torch": torch_export,
    "torchscript": torchscript,
    "safetensors": safetensors,
    "timm": timm,
}


def _any_number() -> dict[str, dict[int, Any]]:
    return {"x": {0: torch.export.Dim("batch")}}


def _compare(trained: Trained, what: str, exported: Callable[[Tensor], Tensor]) -> float:
    """The largest difference of the outputs. Raises InputError where it is more than rounding."""
    largest = 0.0
    with torch.no_grad():
        for count in COUNTS:
            x = trained.example(count)
            expected = trained.network(x)
            difference = (exported(x) - expected).abs().max().item()
            if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
                raise InputError(
                    f"the format {what} does not fit this network: its outputs differ by {difference:.3g} "
                    "(an operation that is random or not known there); choose another"
                )
            largest = max(largest, difference)
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about its own exporters, e.g. that TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
