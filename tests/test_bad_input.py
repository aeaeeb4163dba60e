"""Every parser against malformed input.

Whatever a parser is given, it ends in the project's own error or in a value that survives a round trip:
never in another exception, a hang, a huge allocation or executed code.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import pickle
import random
import re
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import little_memory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import ODD_TEXT, edited, edited_bytes, edited_data, edited_json, soup
from PIL import Image
from safetensors.torch import load_file, save_file

import estimators
import nas
import search_spaces
from ablation import grid, grid_records
from nas import data, genotypes, tables
from nas import device as devices
from nas.bilevel import parts
from nas.bilevel.rules.names import RULES
from nas.bilevel.search import Search
from nas.data import plain_pickle
from nas.data.sources import pictures
from nas.report.run_report import render_report
from nas.runs import checkpoint, kept
from nas.runs.run_folder import RunFolder
from nas.tables.json_table import TABLE_FORMAT
from nas.tables.lookup import enumerable
from nas.training import model, timm_parts
from recipes import FinalOptions, InputError, SearchOptions, command_line, config_file
from recipes.ablation import GridOptions
from recipes.options import check
from search_spaces import Genotype, GenotypeError
from search_spaces.notations import writers
from search_spaces.notations.writers import WRITERS
from search_spaces.zoo import PUBLISHED
from studies.tasks import vae

SECONDS = 5.0  # of computing for one input
EXECUTED = {"exec", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"}
BUILDERS = {"importlib._bootstrap", "dataclasses", "typing"}  # late imports, generated methods, annotations

_executed: list[str] | None = None


def _audit(event: str, arguments: Any) -> None:
    if _executed is None or event not in EXECUTED:
        return
    if event == "exec" and sys._getframe(1).f_globals.get("__name__") in BUILDERS:
        return
    _executed.append(f"{event} {str(arguments)[:200]}")


sys.addaudithook(_audit)


@contextmanager
def nothing_is_executed() -> Iterator[None]:
    """Fails if code runs that was not part of the process before."""
    global _executed
    _executed = []
    try:
        yield
        assert not _executed
    finally:
        _executed = None


@dataclass(frozen=True)
class Parser:
    """A parser under test.

    Attributes:
        read: the parser; what it takes is one of `inputs`.
        inputs: valid and malformed ones.
        write: an inverse of `read`: what it makes of a value is read as the same value.
        megabytes: that the process may grow by at its peak, over all inputs.
    """

    read: Callable[[Any], Any]
    inputs: st.SearchStrategy[Any]
    write: Callable[[Any], Any] | None = None
    megabytes: int = 400


def hammer(parser: Parser, examples: int) -> Counter[str]:
    """Feed a parser; how many inputs were refused, and how many accepted and read back."""
    count: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(parser.inputs)
    def feed(text: Any) -> None:
        started = time.process_time()
        try:
            with nothing_is_executed():
                value = parser.read(text)
        except (InputError, GenotypeError) as error:
            message = str(error)
            count["refused"] += 1
            assert len(message) < 2000
            assert "\n" not in message
        else:
            if parser.write is not None:
                assert parser.read(parser.write(value)) == value
            count["accepted"] += 1
        assert time.process_time() - started < SECONDS

    with little_memory(parser.megabytes):
        feed()
    return count


PARSERS: dict[str, Callable[[Path], Parser]] = {}


def parser(name: str) -> Callable[[Callable[[Path], Parser]], Callable[[Path], Parser]]:
    """Register a function that makes a parser working in a folder."""

    def register(make: Callable[[Path], Parser]) -> Callable[[Path], Parser]:
        PARSERS[name] = make
        return make

    return register


def from_file(path: Path, read: Callable[[Path], Any]) -> Callable[[str | bytes], Any]:
    """`read` of a file with the given content."""

    def read_content(content: str | bytes) -> Any:
        path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
        return read(path)

    return read_content


# Genotypes


def cells_of(name: str) -> st.SearchStrategy[Genotype]:
    """Architectures of a space."""
    space = search_spaces.get(name)
    return st.integers(0, 2**32).map(lambda seed: space.random(random.Random(seed)))


def texts_of(name: str) -> st.SearchStrategy[str]:
    """Architectures of a space in its notation."""
    return cells_of(name).map(search_spaces.get(name).format)


any_cell = st.sampled_from(search_spaces.names()).flatmap(cells_of)
any_text = st.sampled_from(search_spaces.names()).flatmap(texts_of)


def notation(name: str) -> Parser:
    """The notation of a space."""
    space = search_spaces.get(name)
    words = [
        "|",
        "~0|",
        "~1|",
        "+",
        "none",
        "(",
        ")",
        "[",
        "]",
        "Genotype(",
        "normal=",
        "reduce_concat=",
        ", 2",
    ]
    return Parser(space.parse, edited(texts_of(name)) | soup(*words, *space.operations), space.format)


for _name in search_spaces.names():
    PARSERS[f"notation of {_name}"] = lambda folder, name=_name: notation(name)


@parser("genotype data")
def genotype_data(folder: Path) -> Parser:
    def read(data: Any) -> Genotype:
        genotype = Genotype.from_json(data)
        if genotype.space not in search_spaces.names():
            raise GenotypeError("unknown space")
        return search_spaces.get(genotype.space).validate(genotype)

    return Parser(read, edited_data(any_cell.map(Genotype.to_json)), Genotype.to_json)


@parser("genotype file")
def genotype_file(folder: Path) -> Parser:
    data = any_cell.map(lambda cell: cell.to_json() | {"text": search_spaces.get(cell.space).format(cell)})
    contents = edited_json(data) | edited_bytes(data.map(json.dumps).map(str.encode)) | edited(any_text)
    read = from_file(folder / "genotype.json", lambda path: genotypes.read_genotype(str(path)))
    return Parser(read, contents, lambda genotype: json.dumps(genotype.to_json()))


@parser("genotype of the command line")
def genotype_words(folder: Path) -> Parser:
    words = edited(st.sampled_from(sorted(PUBLISHED)) | any_text | st.just("genotype.json"))
    spaces = st.none() | st.sampled_from(search_spaces.names()) | edited(st.just("darts"), most=1)
    return Parser(
        lambda pair: genotypes.read_genotype(*pair),
        st.tuples(words, spaces),
        lambda genotype: (search_spaces.get(genotype.space).format(genotype), genotype.space),
    )


def texts_of_tools() -> list[str]:
    """Architectures in the notations of other tools, with numbers as they print them, in lines of a log."""
    texts = []
    for name in search_spaces.names():
        genotype = search_spaces.get(name).random(random.Random(len(texts)))
        for notation in WRITERS.names():
            if name in (WRITERS.get(notation).spaces or (name,)) and (name, notation) != ("nasnet", "nni"):
                text = writers.write(genotype, notation)
                texts.append(f"[1, 2] {{'a': 1}}\ngenotype = {text}\ndone")
                for number in (r"np.int64(\1)", r"\1, 0.25"):
                    texts.append("hash: " + re.sub(r"(?<=, )(\d)(?=\))", number, text))
    return texts


@parser("log of another tool")
def log_of_a_tool(folder: Path) -> Parser:
    words = ["Genotype(", "normal=", "{'normal': ", "'normal/op_2_0': ", "'0_1': ", "[(", "('sep_conv_3x3', ",
             "0), ", "range(2, 6)", "Structure(", "4 nodes with ", "|none~0|", "|none~1|", "+",
             "nasbench201:", "np.int64("]  # fmt: skip
    texts = st.sampled_from(texts_of_tools())
    read = from_file(folder / "log.txt", lambda path: genotypes.read_genotype(str(path)))
    contents = edited(texts) | soup(*words) | edited_bytes(texts.map(str.encode))
    return Parser(read, contents, lambda genotype: json.dumps(genotype.to_json()))


# Options


def configuration(options_class: Any, folder: Path) -> Parser:
    """config.json of a run."""
    written = [
        config_file.config_json(options)
        for options in (options_class(), options_class(out="runs/x", train_limit=5, cells=3, flip=True))
    ]
    read = from_file(
        folder / "config.json",
        lambda path: check(options_class(**config_file.read_config(options_class, path))),
    )
    return Parser(
        read,
        edited_json(st.sampled_from(written)),
        lambda options: json.dumps(config_file.config_json(options)),
    )


PARSERS["configuration of a search"] = lambda folder: configuration(SearchOptions, folder)
PARSERS["configuration of a training"] = lambda folder: configuration(FinalOptions, folder)


@parser("command line")
def words_of_a_command(folder: Path) -> Parser:
    path = folder / "config.json"
    path.write_text(json.dumps(config_file.config_json(SearchOptions())))
    good = ["--epochs", "3", "--tau", "1:0.1", "--lr", "0.5", "--flip", "--no-flip", "--resume", "--seed",
            "--out", "runs", "--config", str(path), "--preset", "quick", "--order", "2", "--precision",
            "float32", "--cells", "None", "7", "--", "--image-size=8", "--overwrite"]  # fmt: skip
    odd = st.sampled_from(ODD_TEXT).filter(lambda text: "\0" not in text)
    word = st.sampled_from(good) | st.sampled_from(good) | odd | edited(st.sampled_from(good), most=1)
    return Parser(
        lambda words: command_line.parse(SearchOptions, words),
        st.lists(word.filter(lambda w: w not in ("-h", "--help")), max_size=6),
    )


@parser("temperature")
def temperature(folder: Path) -> Parser:
    tau = st.floats(1e-3, 1e3)
    texts = tau.map(str) | st.tuples(tau, tau).map(lambda pair: f"{pair[0]}:{pair[1]}")
    return Parser(
        lambda text: parts.temperature(SearchOptions(tau=text), estimators.get("reinmax")),
        edited(texts),
        lambda schedule: f"{schedule.start!r}:{schedule.end!r}",
    )


@parser("rule of derivation")
def derivation(folder: Path) -> Parser:
    texts = st.just("argmax") | st.integers(-5, 200_000).map(lambda k: f"sample:{k}")

    def read(text: str) -> tuple[str, int]:
        rule = RULES.build(text)
        return rule.name, getattr(rule, "count", 0)

    return Parser(
        read, edited(texts), lambda found: "argmax" if found[0] == "argmax" else f"sample:{found[1]}"
    )


@parser("method of a grid")
def method(folder: Path) -> Parser:
    texts = st.sampled_from(["reinmax", "reinmax,draws=4", "st_gumbel,edge_gradient=surrogate,tau=1:0.5"])
    odd = soup(
        "reinmax", "st", ",", "=", "draws", "seed", "out", "config", "resume", "4", "derive", "/", ".."
    )
    return Parser(lambda text: grid.plan(GridOptions(methods=(text,), seeds=2), folder), edited(texts) | odd)


@parser("options of all searches of a grid")
def search_words(folder: Path) -> Parser:
    texts = st.sampled_from(["--epochs 20 --device cuda", "--preset nasbench201-gdas --lr '0.1'"])
    odd = soup("--epochs", "--out", "--seed=3", "--resume", "--config=x", " ", "'", "5", "--", "--dataset")
    return Parser(
        lambda text: grid.plan(GridOptions(search=text, methods=("st",), seeds=1), folder),
        edited(texts).filter(asks_no_help) | odd.filter(asks_no_help),
    )


def asks_no_help(text: str) -> bool:
    """--help is obeyed: it ends the process with exit code 0."""
    return "-h" not in text


@parser("image policy")
def policy(folder: Path) -> Parser:
    names = [
        "rand-m9-mstd0.5",
        "rand-m9-n3-inc1-w0",
        "augmix-m5-w4-d2",
        "original",
        "v0r-mstd0.5",
        "originalr",
        "3a",
    ]
    image = Image.new("RGB", (8, 8), "red")

    def read(text: str) -> None:
        apply = timm_parts.image_policy(text)
        assert apply is not None
        random.seed(0)
        np.random.seed(0)
        assert apply(image).size == (8, 8)

    return Parser(
        read, edited(st.sampled_from(names)) | soup("rand", "augmix", "-m", "-n", "-d", "-w", "9", "x")
    )


@parser("device")
def device(folder: Path) -> Parser:
    names = st.sampled_from(
        ["cpu", "cpu:0", "auto", "cuda:0", "meta", "mps", "xla:1", "privateuseone", "lazy"]
    )
    return Parser(lambda text: devices.select(text), edited(names), str)


@parser("data set")
def data_set(folder: Path) -> Parser:
    with pytest.raises(InputError):
        data.load("cifar10")  # imports torchvision, which makes classes from text
    data.load("digits")  # imports scikit-learn
    names = st.sampled_from(["cifar10", "cifar100", "folder:nowhere", "folder:", "imagenet", "digits:"])
    return Parser(lambda text: data.load(text), edited(names))


# Tables


def table_of_micro() -> dict[str, Any]:
    """A table as `ablate.py truth` writes it, of two seeds."""
    space = enumerable("micro")
    cells = [space.format(cell) for cell in space.all()]
    correct = [[(7 * i + seed) % 1000 for i in range(len(cells))] for seed in (0, 1)]
    return {
        "format": TABLE_FORMAT, "space": "micro", "dataset": "digits",
        "recipe": {"epochs": 6, "batch_size": 48, "lr": 0.1}, "seeds": [0, 1], "test_images": 1078,
        "cells": cells, "parameters": [1 + i for i in range(len(cells))], "correct": correct,
    }  # fmt: skip


def csv_of_micro(columns: int = 2) -> str:
    """A CSV table of micro."""
    space = enumerable("micro")
    lines = [",".join(["index", "arch", *("cifar10", "other")[:columns]])]
    lines += [
        ",".join([str(i), space.format(cell), *(f"{(i * 0.7 + c) % 100:.2f}" for c in range(columns))])
        for i, cell in enumerate(space.all())
    ]
    return "\n".join(lines) + "\n"


def table(folder: Path, contents: st.SearchStrategy[Any]) -> Parser:
    """A table of micro in a file."""
    return Parser(from_file(folder / "table", lambda path: tables.read_all(path, "micro")), contents)


@parser("CSV table")
def csv_table(folder: Path) -> Parser:
    words = ["index", "arch", "cifar10", ",", "\n", '"', "99", "|none~0|+|none~0|none~1|", "1e2", "\r"]
    texts = st.sampled_from([csv_of_micro(), csv_of_micro(1)])
    return table(folder, edited(texts) | soup(*words) | edited_bytes(texts.map(str.encode)))


@parser("JSON table")
def json_table(folder: Path) -> Parser:
    return table(folder, edited_json(st.just(table_of_micro())))


@parser("compressed table")
def compressed_table(folder: Path) -> Parser:
    contents = [
        gzip.compress(csv_of_micro().encode()),
        gzip.compress(json.dumps(table_of_micro()).encode()),
        gzip.compress(b"[" * 1000),
        gzip.compress(b"0" * 200_000_000, 1),
        gzip.compress(b"\n" * 200_000_000, 1),
    ]
    return table(folder, edited_bytes(st.sampled_from(contents[:3])) | st.sampled_from(contents))


# Networks


def network_file(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """A small trained network as a file, and its description."""
    cell = "|nor_conv_1x1~0|+|none~0|skip_connect~1|"
    description = {
        "genotype": search_spaces.get("micro").parse(cell).to_json(), "channels": 2, "cells": 1,
        "num_classes": 3, "in_chans": 1, "mean": [0.5], "std": [0.2], "classes": ["a", "b", "c"],
    }  # fmt: skip
    network = model.nas_net(genotype=cell, space="micro", channels=2, cells=1, num_classes=3, in_chans=1)
    nas.save(folder / "valid.safetensors", network, description)
    return (folder / "valid.safetensors").read_bytes(), description


def load_network(path: Path) -> tuple[Any, list[Any]]:
    """What a file says about its network, and the weights."""
    network = nas.load(path)
    return network.description, [tensor.tolist() for tensor in network.state_dict().values()]


@parser("network file")
def network_bytes(folder: Path) -> Parser:
    content, _ = network_file(folder)
    return Parser(from_file(folder / "model.safetensors", load_network), edited_bytes(st.just(content)))


@parser("header of a network file")
def network_header(folder: Path) -> Parser:
    content, _ = network_file(folder)
    length = int.from_bytes(content[:8], "little")
    header, weights = json.loads(content[8 : 8 + length]), content[8 + length :]

    def file(text: str, claimed: int | None) -> bytes:
        encoded = text.encode(errors="surrogatepass")
        return (len(encoded) if claimed is None else claimed).to_bytes(8, "little") + encoded + weights

    lengths = st.none() | st.sampled_from([0, 1, length, 2**31, 2**63, 2**64 - 1, 99_999_999, 10**8 + 1])
    return Parser(
        from_file(folder / "model.safetensors", load_network),
        st.builds(file, edited_json(st.just(header)), st.none() | lengths),
    )


@parser("description of a network")
def network_description(folder: Path) -> Parser:
    description = network_file(folder)[1]
    weights = load_file(folder / "valid.safetensors")

    def read(text: str) -> Any:
        save_file(weights, folder / "model.safetensors", {"nas": text})
        return load_network(folder / "model.safetensors")

    return Parser(
        read, edited_json(st.just(description)).map(lambda text: text.encode("utf-8", "replace").decode())
    )


# Runs


def stopped_run(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    """The checkpoint of a run, and a function that finds what a resumed run takes from it."""
    run = folder / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config_file.config_json(SearchOptions())))
    options = SearchOptions(out=str(run), resume=True)
    with RunFolder(SearchOptions(out=str(run), overwrite=True), "search") as opened:
        opened.save_checkpoint(1, 2, 3.0, {"logits": torch.zeros(3, 5), "estimator": {}})

    def read(_: Path) -> None:
        with RunFolder(options, "search") as opened:
            epoch, step, seconds = opened.position
            assert not min(epoch, step, seconds) < 0
            assert isinstance((opened.checkpoint or {"state": {}})["state"], dict)

    return run / checkpoint.NEWEST, read


@parser("kept weights")
def kept_weights(folder: Path) -> Parser:
    search = Search.of(SearchOptions(space="micro", channels=1, cells=1))
    kept.save(folder, 1, search.weights())
    path = folder / kept.FOLDER / "epoch-1.safetensors"
    content, names = path.read_bytes(), set(search.weights())
    length = int.from_bytes(content[:8], "little")

    def read(_: Path) -> None:
        search.take(kept.load(folder, 1))
        assert set(search.weights()) == names

    headers = edited_json(st.just(json.loads(content[8 : 8 + length]))).map(
        lambda text: (
            (encoded := text.encode(errors="surrogatepass"))
            and len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]
        )
    )
    return Parser(from_file(path, read), edited_bytes(st.just(content)) | headers)


@parser("checkpoint")
def checkpoint_file(folder: Path) -> Parser:
    path, read = stopped_run(folder)
    return Parser(from_file(path, read), edited_bytes(st.just(path.read_bytes())))


@parser("checkpoint with a valid checksum")
def sealed_checkpoint(folder: Path) -> Parser:
    path, read = stopped_run(folder)
    content = checkpoint.read(path)
    data = content | {"state": {"logits": [[0.0] * 5] * 3, "estimator": {}}}

    def seal(payload: bytes) -> bytes:
        return payload + checkpoint._seal(payload)

    def pickled(content: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    payload = pickled(content)
    return Parser(
        from_file(path, read),
        edited_bytes(st.just(payload)).map(seal) | edited_data(st.just(data)).map(pickled).map(seal),
    )


@parser("configuration in a run folder")
def run_configuration(folder: Path) -> Parser:
    (folder / "run").mkdir()
    options = SearchOptions(out=str(folder / "run"), resume=True)

    def read(_: Path) -> None:
        RunFolder(options, "search").close()

    return Parser(
        from_file(folder / "run" / "config.json", read),
        edited_json(st.just(config_file.config_json(options))),
    )


# Images


def images() -> list[bytes]:
    """Small images in every format and in many modes."""
    gradient = Image.linear_gradient("L").resize((12, 9))
    kinds = {
        "JPEG": ("L", "RGB", "CMYK"),
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "BMP": ("P", "RGB"),
        "GIF": ("L", "P"),
        "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB"),
        "WEBP": ("RGB", "RGBA"),
        "PPM": ("1", "L", "RGB"),
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = []
    for kind, modes in kinds.items():
        for mode in modes:
            buffer = io.BytesIO()
            image = Image.new("LAB", (12, 9)) if mode == "LAB" else gradient.convert(mode)
            image.save(buffer, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
            contents.append(buffer.getvalue())
    return contents


@parser("image")
def image_file(folder: Path) -> Parser:
    def read(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as they are where folders are read
            assert pictures.decode(path, 8, 3, False)[0].shape == (8, 8, 3)

    # An image of the largest size allowed takes 320 MB with alpha, and that three times to be put on white.
    contents = st.sampled_from(images())
    return Parser(from_file(folder / "image.png", read), edited_bytes(contents), megabytes=1300)


@parser("batch of ImageNet16")
def pickled_batch(folder: Path) -> Parser:
    content = {"data": np.zeros((2, 768), np.uint8), "labels": [1, 120]}
    whole = [pickle.dumps(content, protocol) for protocol in (0, 2, 4, 5)]
    return Parser(from_file(folder / "batch", plain_pickle.load), edited_bytes(st.sampled_from(whole)))


@parser("arrays")
def arrays_of_images(folder: Path) -> Parser:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((6, 4, 4), np.uint16), labels=np.arange(6) % 2)
    read = from_file(folder / "a.npz", lambda path: data.load(f"arrays:{path}"))
    return Parser(read, edited_bytes(st.just(buffer.getvalue())))


@parser("list of images")
def list_of_images(folder: Path) -> Parser:
    for name in ("1.png", "2.png", "3.png", "4.png"):
        (folder / name).write_bytes(images()[0])
    texts = st.just("path,label,split\n" + "".join(f"{i}.png,{i % 2},train\n" for i in range(1, 5)))
    words = ["path", "label", "split", ",", "\n", '"', "1.png", "a", "train", "test", ";", "\r"]
    inputs = edited(texts) | soup(*words) | edited_bytes(texts.map(str.encode))
    return Parser(from_file(folder / "l.csv", lambda path: data.load(f"csv:{path}", image_size=8)), inputs)


@parser("file of MNIST")
def mnist_file(folder: Path) -> Parser:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "t10k-images-idx3", "train-labels-idx1", "t10k-labels-idx1"):
        sizes = (3, 28, 28) if "images" in name else (3,)
        header = bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
        (raw / f"{name}-ubyte").write_bytes(header + bytes(math.prod(sizes)))
    path = raw / "train-images-idx3-ubyte"
    read = from_file(path, lambda _: vae.load_mnist.__wrapped__(str(folder)))
    return Parser(read, edited_bytes(st.just(path.read_bytes())))


@parser("folder of images")
def image_folder(folder: Path) -> Parser:
    kinds = [b"", b"hello", b"folder", b"link", b"loop", b"pipe", images()[0][:100], *images()[:4] * 4]
    names = st.sampled_from(
        ["a.png", "b.JPG", "c.txt", ".hidden.png", "d", "é.gif", "\udce9.png", "e\n.webp"]
    )
    classes = st.sampled_from(["ant", "bee", "cow", "dog", "train", "test", ".git", "Ü", "\udce9", "\u202e"])
    content = st.dictionaries(names, st.sampled_from(kinds), max_size=4)
    trees = st.dictionaries(classes, content | st.dictionaries(classes, content, max_size=3), max_size=4)

    def fill(place: Path, tree: dict[str, Any]) -> None:
        place.mkdir()
        for name, inner in tree.items():
            path = place / name
            if isinstance(inner, dict):
                fill(path, inner)
            elif inner == b"folder":
                path.mkdir()
            elif inner in (b"link", b"loop"):
                path.symlink_to("nowhere" if inner == b"link" else place)
            elif inner == b"pipe":
                os.mkfifo(path)
            else:
                path.write_bytes(inner)

    def read(tree: dict[str, Any]) -> None:
        shutil.rmtree(folder / "tree", ignore_errors=True)
        fill(folder / "tree", tree)
        dataset = data.load(f"folder:{folder}/tree", image_size=8)
        assert len(dataset.classes) >= 2
        for part in (dataset.train, dataset.test):
            assert part.pixels.shape in ((len(part), 1, 8, 8), (len(part), 3, 8, 8))
            assert set(part.labels.tolist()) <= set(range(len(dataset.classes)))

    return Parser(read, trees)


NAMES = sorted(PARSERS)


@pytest.mark.parametrize("name", NAMES)
def test_malformed_input(name: str, tmp_path: Path) -> None:
    """A few dozen inputs of every parser."""
    assert hammer(PARSERS[name](tmp_path), 60)["refused"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_much_malformed_input(name: str, tmp_path: Path) -> None:
    """Thousands of them, tens of thousands in all; with -rP it prints the counts."""
    count = hammer(PARSERS[name](tmp_path), 2000)
    print(f"{name}: {count['refused']} refused, {count['accepted']} accepted")
    assert count["refused"] > 500


# What such tests have found


def cell_json(concat: list[int], names: tuple[str, ...] = ("normal", "reduce")) -> dict[str, Any]:
    """A cell of darts with nodes of the output that are given."""
    genotype = search_spaces.get("darts").random(random.Random(0)).to_json()
    for cell, name in zip(genotype["cells"], names, strict=True):
        cell |= {"concat": concat, "name": name}
    return genotype


@pytest.mark.parametrize(
    "genotype",
    [cell_json([0, 10**12]), cell_json([2, 10**400]), cell_json([2, 3], ("normal", "normal")), cell_json([])],
)
def test_odd_genotype_data(genotype: Any) -> None:
    with pytest.raises(GenotypeError), little_memory(50):
        search_spaces.get("darts").validate(Genotype.from_json(genotype))


@pytest.mark.parametrize(
    "piece",
    ["0x" + "f" * 5000, "-" * 4000 + "1", "1if 1 else 0", "range(2, 6, **{})", "range(0, 10**12)", "'\\d'"],
)
def test_odd_pieces_of_darts_text(piece: str) -> None:
    space = search_spaces.get("darts")
    text = space.format(space.random(random.Random(0)))
    for changed in (text.replace("range(2, 6)", piece, 1), text.replace(", 1)", f", {piece})", 1)):
        with pytest.raises(GenotypeError), little_memory(50):
            space.parse(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 10**400}, "`lr` is 1000.* expected a number above 0 and at most 1,000,000,000"),
        ({"channels": 10**9}, "`channels` is 1000000000, expected a number of at least 1 and at most 4,096"),
        ({"cells": 10**9}, "`cells` is 1000000000, expected a number of at least 1 and at most 1,000"),
        ({"order": 1.0}, "option 'order'"),
        ({"seed": True}, "option 'seed'"),
        ({"data_root": "a\0b"}, "`data_root` is not valid UTF-8, or contains a zero byte"),
        ({"dataset": "\ud800"}, "`dataset` is not valid UTF-8"),
        ({"\x1b[31m" * 999: 1}, r"unknown option in .*\\x1b\[31m"),
    ],
)
def test_odd_values_in_configurations(change: Any, message: str, tmp_path: Path) -> None:
    read = configuration(SearchOptions, tmp_path).read
    with pytest.raises(InputError, match=message):
        read(json.dumps(config_file.config_json(SearchOptions()) | change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"lr": NaN}', "NaN is not a number of JSON"),
        ('{"lr": 1e999}', "the number 1e999 is out of range"),
        ('{"lr": 1, "lr": 2}', "a name occurs twice"),
        ("[" * 100_000, "nested"),
        ('{"lr": ' + "[" * 60 + "]" * 60 + "}", "nested deeper than 50 levels"),
        ("\ufeff", "Expecting value"),
        ('{"epochs": ' + "9" * 5000 + "}", "cannot read the configuration"),
        (b"\xff", "codec can't decode"),
        ('"' + '\\"' * 1_000_000, "Unterminated string"),
        (" " * 20_000_001, "larger than 20,000,000 bytes"),
    ],
)
def test_odd_json(text: str | bytes, message: str, tmp_path: Path) -> None:
    read = configuration(SearchOptions, tmp_path).read
    with pytest.raises(InputError, match=message):
        read(text)
    assert read('\ufeff{"epochs": 7}').epochs == 7


@pytest.mark.parametrize("name", ["/dev/zero", "pipe", "x" * 300, "."])
def test_what_is_no_file_is_not_read(name: str, tmp_path: Path) -> None:
    os.mkfifo("pipe")
    for read in (
        lambda: command_line.parse(SearchOptions, ["--config", name]),
        lambda: tables.read(Path(name), "micro"),
        lambda: genotypes.read_genotype(name),
    ):
        with pytest.raises(InputError), little_memory(100):
            read()


def test_a_run_folder_whose_name_is_too_long() -> None:
    with pytest.raises(InputError, match=r"no run in|cannot be used"):
        RunFolder(command_line.parse(SearchOptions, ["--resume", "--out", "x" * 300]), "search")
    with pytest.raises(InputError, match=r"no run in|cannot be used"):
        nas.search(out="x" * 300, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            GridOptions(methods=("reinmax,seed=3",)),
            "--seed in the method 'reinmax,seed=3' is set by the grid",
        ),
        (GridOptions(methods=("reinmax,resume=True",)), "--resume in the method"),
        (GridOptions(methods=("reinmax,derive=../../x",)), "names a run folder"),
        (GridOptions(methods=("reinmax,derive=" + "x" * 300,)), "names a run folder"),
        (GridOptions(search="--seed=3"), "--seed=3 in --search is set by the grid"),
        (GridOptions(search="--config=x"), "--config=x in --search"),
    ],
)
def test_what_a_grid_sets_itself_is_refused(options: GridOptions, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        grid.plan(options, tmp_path)


def test_other_odd_options() -> None:
    for text in ("sample:" + "9" * 5000, "sample:٣", "sample:0x1", "sample:", "sample:-1", "argmax:3"):
        with pytest.raises(InputError, match="rule of selection"):
            RULES.build(text)
    for tau in ("1:", ":1", "1:2:3", "nan", "inf", "", "1e-4"):
        with pytest.raises(InputError, match="`tau`"):
            parts.temperature(SearchOptions(tau=tau), estimators.get("reinmax"))
    with pytest.raises(InputError, match="at most three digits"), little_memory(50):
        timm_parts.image_policy("rand-m9-n1000000000")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 10**9}, "channels is not an integer from 1 to 4096"),
        ({"channels": 4096}, "weights do not fit"),
        ({"cells": 10**9}, "cells is not an integer"),
        ({"cells": True}, "cells is not an integer"),
        ({"num_classes": 10**6}, "weights do not fit"),
        ({"genotype": {"space": "x", "cells": []}}, "unknown search space"),
    ],
)
def test_networks_larger_than_their_file(change: Any, message: str, tmp_path: Path) -> None:
    """What a file says of its size costs nothing until its weights have been compared with it."""
    description = network_file(tmp_path)[1]
    weights = load_file(tmp_path / "valid.safetensors")
    save_file(weights, tmp_path / "m.safetensors", {"nas": json.dumps(description | change)})
    with pytest.raises(InputError, match=message), little_memory(50):
        nas.load(tmp_path / "m.safetensors")
    half = {name: w.half() if w.is_floating_point() else w for name, w in weights.items()}
    save_file(half, tmp_path / "m.safetensors", {"nas": json.dumps(description)})
    with pytest.raises(InputError, match="weights do not fit"):
        nas.load(tmp_path / "m.safetensors")


def test_a_table_of_millions_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"arch,cifar10\n" + b"a,1\n" * 4_000_000, 1))
    with pytest.raises(InputError, match="'a' is not a cell"), little_memory(150):
        tables.read(path, "micro")


@pytest.mark.parametrize("name", ["config", "result", "environment", "genotype", "metrics"])
def test_damaged_results_are_named(name: str, tmp_path: Path) -> None:
    """The report of a finished run is made from its files, and so is a grid's."""
    path = tmp_path / f"{name}.json{'l' * (name == 'metrics')}"
    files = dict.fromkeys(("config.json", "result.json", "environment.json", "genotype.json"), "{}")
    for content in (None, '{"a": ', "[" * 100_000, "\0", b"\xff"):
        for other, text in (files | {"metrics.jsonl": "{}\n{}\n"}).items():
            (tmp_path / other).write_text(text)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=f"{path.name} is missing or damaged"):
            render_report(tmp_path)


def test_damaged_results_of_a_grid_are_named(tmp_path: Path) -> None:
    (cell,) = grid.plan(GridOptions(methods=("st",), seeds=1), tmp_path)
    cell.folder.mkdir(parents=True)
    for name, read in (("result.json", grid_records.record), ("metrics.jsonl", grid_records.metrics)):
        (cell.folder / name).write_text('{"genotype": "|none~0|"}\n{"')
        with pytest.raises(InputError, match=f"{name} is missing or damaged"):
            read(cell)
