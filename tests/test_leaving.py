"""Derived networks outside a run: programs of torch, timm models, files for others, and their answers."""

import csv
import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torchvision.models.feature_extraction import create_feature_extractor

import nas
import search_spaces
from nas import data
from nas.data.preprocessing import Preprocessing
from nas.data.sources import layout
from nas.data.sources import pictures as picture_file
from nas.deploy import predict
from nas.task import Task
from recipes import InputError, commands
from recipes.deploy import PredictOptions

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|none~0|skip_connect~1|nor_conv_1x1~2|"
MICRO = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|"
# Every operation of DARTS, into one node or another of both cells.
DARTS = (
    "Genotype(normal=[('sep_conv_5x5', 0), ('skip_connect', 1), ('dil_conv_3x3', 0), ('avg_pool_3x3', 2), "
    "('max_pool_3x3', 1), ('dil_conv_5x5', 3), ('sep_conv_3x3', 2), ('skip_connect', 4)], "
    "normal_concat=range(2, 6), reduce=[('skip_connect', 0), ('avg_pool_3x3', 1), ('dil_conv_5x5', 0), "
    "('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('dil_conv_3x3', 2), ('sep_conv_3x3', 1), "
    "('avg_pool_3x3', 4)], reduce_concat=range(2, 6))"
)
NETWORKS = {
    "nasbench201": {"genotype": CELL, "channels": 4, "cells": 1},
    "darts": {"genotype": DARTS, "channels": 4, "cells": 3},
    "darts with extras": {
        "genotype": DARTS, "channels": 4, "cells": 3, "auxiliary": True, "drop_path_rate": 0.2,
    },
}  # fmt: skip


@pytest.fixture
def quiet():
    """torch's own remarks on its exporters."""
    with warnings.catch_warnings():
        for message in ("`torch.jit", "The TorchScript type system", "NOTE: The nodes obtained"):
            warnings.filterwarnings("ignore", message)
        yield


def network(name, **more):
    torch.manual_seed(0)
    model = timm.create_model("nas_net", **NETWORKS[name] | more).train()
    for _ in range(3):
        model(images(8))  # moves the normalisation statistics
    return model.eval()


def images(count, size=17):
    x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
    return x.contiguous(memory_format=torch.channels_last)


def saved(write, read, model):
    buffer = io.BytesIO()
    write(model, buffer)
    buffer.seek(0)
    return read(buffer)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_programs_of_torchscript(name, training, quiet):
    model = network(name).train(training)
    model.set_drop_path(0.0)  # both draw, not in the same order
    script = saved(torch.jit.save, torch.jit.load, torch.jit.script(model))
    for count in (2, 5):
        outputs = [net(images(count)) for net in (script, model)]
        torch.testing.assert_close(*outputs)
    before = {k: v for k, v in model.state_dict().items() if training or not k.startswith("auxiliary.")}
    assert script.state_dict().keys() - {"drop_path.probability"} == before.keys()


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_networks_can_be_traced_by_torchscript(name, size, quiet):
    model = network(name)
    traced = saved(torch.jit.save, torch.jit.load, torch.jit.trace(model, images(2, size)))
    torch.testing.assert_close(traced(images(5, size)), model(images(5, size)))


def test_supernets_are_no_programs(quiet):
    space = search_spaces.get("micro")
    with pytest.raises(TypeError, match="derive a network"):
        torch.jit.script(space.supernet(channels=4, cells=1, num_classes=3, in_channels=3))


@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_torch_export_takes_any_number_of_images(name):
    model = network(name)
    shapes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (images(2),), dynamic_shapes=shapes).module()
    torch.testing.assert_close(program(images(5)), model(images(5)))


@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_feature_maps_are_those_of_the_blocks(name, quiet):
    model = network(name)
    x = images(2, 16)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    shapes = [(2, i["num_chs"], 16 // i["reduction"], 16 // i["reduction"]) for i in model.feature_info]
    assert [m.shape for m in maps] == shapes
    assert [i["reduction"] for i in model.feature_info] == [1, 2, 4]
    extractor = create_feature_extractor(model, {i["module"]: i["module"] for i in model.feature_info})
    for expected, found in zip(extractor(x).values(), maps, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(model.forward_intermediates(x, norm=True, intermediates_only=True)[-1], last)
    stopped, two = model.forward_intermediates(x, [0, -2], stop_early=True)
    assert stopped is two[1]
    assert [torch.equal(a, b) for a, b in zip(two, maps[:2], strict=True)] == [True, True]
    for missing in ([3], 4, 5):
        with pytest.raises(ValueError, match="expected 0 to 2"):
            model.forward_intermediates(x, missing)
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NHWC")


@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_timm_makes_a_backbone(name):
    model = network(name)
    backbone = timm.create_model("nas_net", **NETWORKS[name], features_only=True).eval()
    assert not backbone.load_state_dict(
        {f"model.{k}": v for k, v in model.state_dict().items()}, strict=False
    )[0]
    for a, b in zip(backbone(images(2)), model.forward_intermediates(images(2))[1], strict=True):
        assert torch.equal(a, b)
    two = timm.create_model("nas_net", **NETWORKS[name], features_only=True, out_indices=(0, 1))
    assert two.feature_info.reduction() == [1, 2]
    assert [m.shape[1] for m in two(images(2))] == two.feature_info.channels()
    total = [sum(p.numel() for p in m.parameters()) for m in (two, backbone, model)]
    assert total[0] < total[1] < total[2]  # without the last blocks, and without the head


@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_the_classifier_is_exchanged_where_the_network_is(name):
    model = network(name).double()
    features = model.forward_head(model.forward_features(images(2).double()), pre_logits=True)
    model.reset_classifier(7)
    assert model(images(2).double()).shape == (2, 7)
    assert model.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(images(2).double()), features)
    with pytest.raises(ValueError, match="average pooling"):
        model.reset_classifier(3, "max")


def pictures(root, count=14, size=12):
    """Two classes that a network tells apart at once, in files of any size."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for label, level in (("bright", 180), ("dark", 60)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(level - 50, level + 50, (size + i, size, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


SMALL = {"channels": 4, "epochs": 3, "batch_size": 4, "lr": 0.02, "tensorboard": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training on picture files: its folder `run`, beside those of the pictures."""
    root = tmp_path_factory.mktemp("trained")
    found = nas.train(
        MICRO,
        f"folder:{pictures(root / 'pictures')}",
        image_size=8,
        out=root / "run",
        progress=False,
        **SMALL,
    )
    assert found.accuracy is not None
    return found, root


def test_timm_prepares_pictures_as_the_training_did(trained):
    result, root = trained
    dataset = data.load(f"folder:{root / 'pictures'}", image_size=8)
    expected = next(iter(result.ended.job.test))[0]
    for model in (result.model, nas.load(root / "run" / "model.safetensors")):
        config = resolve_model_data_config(model)
        assert config["input_size"] == (3, 8, 8)
        assert list(config["mean"]) == dataset.statistics()[0]
        transform = create_transform(**config)
        files = sorted((root / "pictures" / "test").glob("*/*.png"), key=lambda p: (p.parts[-2], p.name))
        found = torch.stack([transform(Image.open(path)) for path in files])
        distances = (found.unsqueeze(1) - expected.unsqueeze(0)).abs().amax((2, 3, 4))
        assert distances.amin(1).max() < 1e-5  # each is one of the test images, which come mixed
        assert distances.argmin(1).unique().numel() == len(files)


def test_predictions_on_the_test_folder_are_the_test_accuracy(trained, capsys):
    result, root = trained
    folder = root / "pictures" / "test"
    found = nas.predict(root / "run", folder)
    correct = [Path(one.image).parent.name == one.label for one in found]
    assert 100 * sum(correct) / len(correct) == result.accuracy
    assert len(found) == 28
    assert found[0].classes == ("bright", "dark")
    assert all(abs(sum(one.probabilities) - 1) < 1e-6 for one in found)
    assert nas.predict(result, [folder / "dark", folder / "bright" / "0.png"])[-1] == found[0]
    for form, read in (("csv", lambda t: list(csv.DictReader(io.StringIO(t)))), ("jsonl", None)):
        assert commands.main(["predict", str(root / "run"), str(folder), "--format", form]) == 0
        text = capsys.readouterr().out
        rows = read(text) if read else [json.loads(line) for line in text.splitlines()]
        assert [row["class"] for row in rows] == [one.label for one in found]
        assert [float(row["probability"]) for row in rows] == [one.probability for one in found]
        dark = [row["dark"] if read else row["probabilities"]["dark"] for row in rows]
        assert [float(p) for p in dark] == [one.probabilities[1] for one in found]


def test_grey_pictures_for_a_network_of_grey_images(tmp_path):
    result = nas.train(MICRO, "digits", train_limit=200, progress=False, **SMALL)
    test = data.load("digits").test
    for i, (image, label) in enumerate(zip(test.pixels, test.labels, strict=True)):
        (tmp_path / "test" / str(int(label))).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(tmp_path / "test" / str(int(label)) / f"{i}.png")
    found = nas.predict(result, tmp_path / "test")
    correct = sum(Path(one.image).parent.name == one.label for one in found)
    assert 100 * correct / len(found) == result.accuracy


def test_pictures_that_cannot_be_read_here_are_named(trained, tmp_path, monkeypatch):
    ending, advice = ".heic", "pip install pillow-heif"
    for module in (layout, picture_file):
        monkeypatch.setattr(module, "NOT_HERE", {ending: advice})
    (tmp_path / f"x{ending}").write_text("x")
    with pytest.raises(InputError, match=f"x{ending}: cannot identify .*; {advice}"):
        nas.predict(trained[1] / "run", tmp_path)


class Regression(Task):
    """The number of the class as a number."""

    outputs = 1

    def loss(self, output, target, reduction="mean"):
        each = (output[:, 0].float() - target) ** 2
        return each.mean() if reduction == "mean" else each

    def plain_loss(self, output, target):
        return self.loss(output, target)

    def correct(self, output, target):
        return ((output[:, 0] - target).abs() < 0.5).sum()


def test_outputs_of_a_task_of_ones_own_are_not_taken_for_classes(tmp_path):
    known = {"data": f"folder:{pictures(tmp_path / 'pictures')}", "image_size": 8, **SMALL | {"epochs": 1}}
    found = nas.train(MICRO, task=Regression(), out=tmp_path / "run", **known)
    assert found.model.description["task"] == "Regression"
    assert "classes" not in found.model.description
    out = nas.export(found, "safetensors", tmp_path / "out")
    assert "| task | Regression |" in (card := (out / "README.md").read_text())
    assert "softmax" not in card
    assert "classes" not in json.loads((out / "model.json").read_text())
    for model in (found, out):
        with pytest.raises(InputError, match="was trained for the task Regression, whose outputs are no"):
            nas.predict(model, tmp_path / "pictures" / "test")
    with pytest.raises(InputError, match="was trained for the task Regression: give `task`, too"):
        nas.train(weights=out, **known)
    assert nas.train(weights=out, task=Regression(), **known).model.description["task"] == "Regression"


def test_bad_pictures_are_named_and_the_others_predicted(trained, tmp_path, capsys):
    _, root = trained
    (tmp_path / "p").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "p" / "good.png")
    (tmp_path / "p" / "bad.png").write_text("no picture")
    (tmp_path / "p" / "cut.png").write_bytes((tmp_path / "p" / "good.png").read_bytes()[:-30])
    out = tmp_path / "found.csv"
    assert commands.main(["predict", str(root / "run"), str(tmp_path / "p"), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["note", "error"]
    assert "cut.png" in lines[0]
    assert "bad.png" in lines[1]
    assert "1 more of 3" in lines[1]
    assert [row["image"] for row in csv.DictReader(out.read_text().splitlines())] == [
        str(tmp_path / "p" / "good.png")
    ]
    with pytest.raises(InputError, match=r"bad\.png.*1 more"):
        nas.predict(root / "run", tmp_path / "p")
    bad = []
    (found,) = nas.predict(root / "run", tmp_path / "p", bad=bad)
    assert found.image.endswith("good.png")
    assert [line.partition(".png")[0][-3:] for line in bad] == ["bad", "cut"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no model is given"),
        (["nowhere", "x.png"], "there is no file or folder nowhere"),
        (["{run}"], "no pictures are given"),
        (["{run}", "nowhere.png"], "nowhere.png"),
        (["{run}", "{empty}"], "has no images"),
        (["{empty}", "x.png"], "holds no model.safetensors"),
        (["{run}", "x.png", "--format", "xml"], "csv"),
        (["{run}", "x.png", "--device", "tpu"], "device 'tpu' is not available"),
        (["{run}", "x.png", "--plugins", "nowhere.py"], "nowhere.py' cannot be imported"),
    ],
)
def test_bad_input_of_predict(arguments, words, trained, tmp_path, capsys):
    places = {"run": trained[1] / "run", "empty": tmp_path}
    assert commands.main(["predict", *[a.format(**places) for a in arguments]]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_predictions_that_nobody_reads_end_as_any_command(trained, monkeypatch):
    def lines(*_):
        raise BrokenPipeError
        yield

    monkeypatch.setattr(predict, "table", lines)
    options = PredictOptions(model=str(trained[1] / "run"), images=(str(trained[1] / "pictures"),))
    with pytest.raises(BrokenPipeError):  # which the command line makes 141 of
        predict.run(options)


def test_an_export_without_the_network_of_this_package_says_so(tmp_path, capsys):
    (tmp_path / "model.json").write_text("{}")
    assert commands.main(["predict", str(tmp_path), "x.png"]) == 2
    assert "is an export without model.safetensors: export with the format safe" in capsys.readouterr().err


def test_exports_are_the_network(trained, tmp_path, capsys):
    result, root = trained
    formats = ["torch", "torchscript", "safetensors", "timm"]
    out = tmp_path / "mine"
    assert commands.main(["export", str(root / "run"), "--format", *formats, "--out", str(out)]) == 0
    assert "model.pt2" in capsys.readouterr().out
    facts = json.loads((out / "model.json").read_text())
    preprocessing = Preprocessing.of(facts["preprocessing"])
    x = torch.rand(6, 3, 8, 8)
    expected = result.model(x)
    again = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert resolve_model_data_config(again) == resolve_model_data_config(result.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        readers = {
            "torch": torch.export.load(out / "model.pt2").module(),
            "torchscript": torch.jit.load(out / "model.ts"),
            "safetensors": nas.load(out / "model.safetensors"),
            "timm": again,
        }
    for reader in readers.values():
        torch.testing.assert_close(reader(x), expected)
    assert facts["classes"] == ["bright", "dark"]
    assert facts["test_accuracy"] == result.accuracy
    assert facts["parameters"] == result.summary["parameters"]
    assert facts["macs"] == result.summary["macs"]
    assert preprocessing.image_size == (8, 8)
    card = (out / "README.md").read_text()
    for text in (
        f"{result.accuracy:.2f} %",
        "bright, dark",
        f"{facts['macs']:,}",
        facts["command"],
        "model.ts",
    ):
        assert text in card
    assert f"--dataset folder:{root / 'pictures'}" in facts["command"]
    assert not list(tmp_path.glob(".*"))  # nothing half-written
    # What was exported can be asked again, and a new head takes the weights.
    label = nas.predict(out, root / "pictures" / "test" / "dark" / "0.png")[0].label
    assert label in ("bright", "dark")
    wider = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=5)
    assert torch.equal(wider.stem[0].weight, again.stem[0].weight)
    assert wider(x).shape == (6, 5)


@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_onnx_computes_what_the_network_computes(name, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = network(name)
    genotype = search_spaces.get(name).parse(NETWORKS[name]["genotype"])
    size = {"channels": 4, "cells": NETWORKS[name]["cells"], "num_classes": 10, "in_chans": 3}
    about = {
        "genotype": genotype.to_json(),
        "text": NETWORKS[name]["genotype"],
        "classes": list("abcdefghij"),
    }
    prepared = {"image_size": [16, 16], "mean": [0.5] * 3, "std": [0.25] * 3}
    nas.save(tmp_path / "model.safetensors", model, about | size | prepared)
    out = nas.export(tmp_path / "model.safetensors", "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        x = images(count, 16).contiguous()
        (found,) = session.run(["logits"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == about["classes"]
    assert json.loads(metadata["preprocessing"])["mean"] == [0.5] * 3
    card = (out / "README.md").read_text()
    assert "test accuracy | not known" in card


def test_a_random_network_is_not_exported_as_if_it_were_none(tmp_path, monkeypatch):
    """The check compares: it finds a file that computes something else."""
    space = search_spaces.get("s4")
    for seed in range(100):
        genotype = space.random(np.random.default_rng(seed))
        if any(genotype.count("noise").values()):
            break
    model = space.network(genotype, channels=4, cells=3)
    about = {"genotype": genotype.to_json(), "text": space.format(genotype), "image_size": [8, 8]}
    size = {"channels": 4, "cells": 3, "num_classes": 10, "in_chans": 3}
    nas.save(tmp_path / "m.safetensors", model, about | size | {"mean": [0.5] * 3, "std": [0.2] * 3})
    with pytest.raises(InputError, match="its outputs differ"):
        nas.export(tmp_path / "m.safetensors", "safetensors", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}", "--format", "tflite"], "onnx"),
        (["{run}/pictures"], "there is no file or folder"),
        (["{run}", "--out", "{run}"], "is not empty and holds no export"),
        (["{run}/genotype.json"], "cannot load the network"),
    ],
)
def test_bad_input_of_export(arguments, words, trained, tmp_path, capsys):
    assert commands.main(["export", *[a.format(run=trained[1] / "run") for a in arguments]]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", []),
        ("result.json", "x"),
        ("result.json", {"latency": 3}),
        ("result.json", {"latency": {"measured": "fast"}}),
    ],
)
def test_damage_beside_a_network_is_named(name, content, trained, tmp_path):
    run = shutil.copytree(trained[1] / "run", tmp_path / "run")
    (run / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{name} is damaged"):
        nas.export(run, out=tmp_path / "out")


def test_an_export_is_replaced_where_that_is_asked_for(trained, tmp_path):
    out = nas.export(trained[0], "safetensors", tmp_path / "out")
    with pytest.raises(InputError, match="`overwrite`"):
        nas.export(trained[0], "safetensors", out)
    nas.export(trained[0], "torchscript", out, overwrite=True)
    assert not (out / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds more than an export, 'notes\.txt'"):
        nas.export(trained[0], "safetensors", out, overwrite=True)
    (out / "notes.txt").unlink()
    (out / "model.json").write_text("{}")
    with pytest.raises(InputError, match=r"model\.json is damaged"):
        nas.export(trained[0], "safetensors", out, overwrite=True)
    with pytest.raises(InputError, match="`out` is the current folder"):
        nas.export(trained[0], "safetensors", ".")
    with pytest.raises(InputError, match="unknown format 'onx'"):
        nas.export(trained[0], "onx", tmp_path / "other")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mean": [0.5]}, "mean"),
        ({"std": [0.2, 0.2, 0.0]}, "positive"),
        ({"std": [0.2, 0.2, float("nan")]}, "std"),
        ({"image_size": [8]}, "image_size"),
        ({"image_size": [8, 0]}, "image_size"),
        ({"image_size": "88"}, "image_size"),
    ],
)
def test_damaged_preprocessing_is_named(fields, words):
    good = {"image_size": [8, 8], "in_chans": 3, "mean": [0.5] * 3, "std": [0.2] * 3, "range": [0.0, 255.0]}
    assert Preprocessing.of(good).to_json() == good
    assert Preprocessing.of({}) is None
    with pytest.raises((TypeError, ValueError), match=words):
        Preprocessing.of(good | fields)
