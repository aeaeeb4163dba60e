"""Cells of other tools: read, refused, written; and the files that a run leaves."""

import csv
import gzip
import json
import random
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import little_memory

import nas
import search_spaces
from nas.genotypes import read_cell, read_genotype
from recipes import InputError, commands, literals
from recipes.literals import LiteralError
from search_spaces import GenotypeError
from search_spaces.notations import benchmark, naslib, nni, writers
from search_spaces.zoo import PUBLISHED

NORMAL = [("sep_conv_3x3", 0), ("skip_connect", 1), ("dil_conv_5x5", 2), ("max_pool_3x3", 0),
          ("avg_pool_3x3", 1), ("sep_conv_5x5", 3), ("skip_connect", 0), ("dil_conv_3x3", 4)]  # fmt: skip
REDUCE = [("max_pool_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2), ("sep_conv_5x5", 1),
          ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("dil_conv_3x3", 3), ("skip_connect", 2)]  # fmt: skip
CELL = f"Genotype(normal={NORMAL}, normal_concat=range(2, 6), reduce={REDUCE}, reduce_concat=range(2, 6))"
OTHER = CELL.replace("dil_conv_5x5", "sep_conv_3x3")
DARTS, NASBENCH, NASNET = (search_spaces.get(name) for name in ("darts", "nasbench201", "nasnet"))
ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"


def nested(pairs, extra=()):
    return [tuple((*pair, *extra) for pair in pairs[i : i + 2]) for i in range(0, len(pairs), 2)]


def fields(form=list, concat=(2, 3, 4, 5)):
    return {
        "normal": form(NORMAL),
        "normal_concat": list(concat),
        "reduce": form(REDUCE),
        "reduce_concat": concat,
    }


def refused(text, *words, space=None):
    """Reading ends in one line with all the words, which is returned."""
    with pytest.raises(InputError) as caught:
        read_cell(text, space)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1001
    for word in words:
        assert word in message, message
    return message


# Values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("np.int64(2)", 2),
        ("numpy.float32(0.25)", 0.25),
        ("tensor(3, device='cuda:0')", 3),
        ("-1", -1),
        ("tensor(0.5, grad_fn=<UnbindBackward0>)", 0.5),
        ("null", None),
        ("true", True),
        ("1e3", 1000.0),
        ("('a')", "a"),
        ('\\"a\\"', "a"),
        ("np.str_('a')", "a"),
        ("u'a'", "a"),
        ("# why\n 'a'", "a"),
    ],
)
def test_plain_values(text, value):
    item, end = literals.read(text)
    assert end == len(text)
    assert (item.value, type(item.value)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "(1,)",
        "[1]",
        "array([1])",
        "np.array([1], )",
        "list(range(1, 2))",
        "tuple([np.int64(1)])",
        "range(1, 2,)",
    ],
)
def test_lists(text):
    assert literals.numbers(literals.read(text)[0]) == (1,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends too early"),
        ("[1, 2", "ends too early"),
        ("[1 2]", "a comma is missing"),
        ("[1,,2]", "',' in"),
        ("x", "'x' is a name"),
        ("1+1", None),
        ("1_000", "not part of a value"),
        ("f(x)", "'x' is a name"),
        ("{1: 2}", "a text as a key"),
        ("{'a': 1, 'a': 2}", "given twice"),
        ("f(a=1, a=2)", "given twice"),
        ("range(1, 10**9)", "a comma is missing"),
        ("range(0, 1000000)", "not from 0 to 100"),
        ("range(*[2, 6])", "not part of"),
        ("9" * 41, "40 digits"),
        ("[" * 5000, "deeper than 20"),
        ("[" + "1, " * 50_000 + "1]", "longer than 20,000"),
        ("lambda: 0", "'lambda' is a name"),
        ("'a\\d'", "not part of"),
        ("٣", "not part of"),
        ("[x for x in y]", "is a name"),
        ("-" * 4000, "not part"),
    ],
)
def test_what_is_no_value(text, message):
    if message is None:
        assert literals.read(text)[1] == 1  # what follows is the caller's
        return
    with pytest.raises(LiteralError, match=re.escape(message)) as caught, little_memory(50):
        literals.read(text)
    assert 0 <= caught.value.at <= len(text)


# DARTS and its forks


@pytest.mark.parametrize(
    "text",
    [
        CELL,
        f"  {CELL}\n",
        f'"{CELL}"',
        f"MINE = {CELL}",
        f"arch: '{CELL}'",
        CELL.replace("'", '"'),
        f"11/26 10:01:02 AM genotype = {CELL}",
        CELL.replace("'", "\\'"),
        CELL.replace(", ", ",\n    "),
        CELL.replace("Genotype", "DARTSGenotype"),
        CELL.replace("Genotype", "genotypes.Genotype"),
        CELL.replace("range(2, 6)", "[2, 3, 4, 5]"),
        CELL.replace("range(2, 6)", "(2, 3, 4, 5,)"),
        CELL.replace("range(2, 6)", "list(range(2, 6))"),
        CELL.replace("range(2, 6)", "array([2, 3, 4, 5])"),
        re.sub(r", (\d)\)", r", np.int64(\1))", CELL),
        re.sub(r"\('(\w+)'", r"(np.str_('\1')", CELL),
        CELL.replace("(2, 6))", "(2, 6), connectN=None, connects=None)"),
        CELL.replace("(", "( ").replace("=", " = "),
        str(fields()),
        str(fields(nested)),
        json.dumps(fields()),
        json.dumps(fields(nested), indent=1),
        "{'normal': " + str(NORMAL) + ", 'epoch': 3" + str(fields())[len("{'normal': " + str(NORMAL)) :],
        str({"genotype": CELL}),
        json.dumps({"epoch": 3, "genotype": CELL}),
        str(fields(lambda pairs: nested(pairs, (0.25,)))),
        str(fields(lambda pairs: nested(pairs, (np.float32(0.2),)))),
        str(fields(lambda pairs: [[(op, source, 1e-05) for op, source in node] for node in nested(pairs)])),
        f"Genotype({NORMAL}, [2, 3, 4, 5], {REDUCE}, [2, 3, 4, 5])",
        CELL.replace(str(NORMAL), str([(op, 2 + i // 2, s) for i, (op, s) in enumerate(NORMAL)])),
        naslib.write(DARTS.parse(CELL)),
        f"Final architecture hash: {naslib.write(DARTS.parse(CELL))}",
        nni.write(DARTS.parse(CELL)),
        str(json.loads(nni.write(DARTS.parse(CELL)))),
        nni.write(DARTS.parse(CELL)).replace("normal/", "model/normal/").replace("[", "").replace("]", ""),
        f"exported: {nni.write(DARTS.parse(CELL))}",
    ],
)
def test_ways_to_write_a_darts_cell(text, tmp_path):
    expected = DARTS.parse(CELL)
    assert read_genotype(text) == expected
    (tmp_path / "cell.txt").write_text(f"\ufeff{text}\r\n", encoding="utf-8")
    assert read_genotype(str(tmp_path / "cell.txt")) == expected
    assert read_genotype(text, "nasnet").cells == expected.cells


def test_of_a_log_the_last_cell_counts(tmp_path):
    log = tmp_path / "log.txt"
    lines = [
        f"epoch {i}\ngenotype = {OTHER}\nloss [0.1, 0.2] {{'lr': 0.1}} tensor([[0.1]])" for i in range(50)
    ]
    log.write_text("\n".join([*lines, f"genotype = {CELL}", "train_acc 99.1"]))
    genotype, notes = read_cell(str(log))
    assert genotype == DARTS.parse(CELL)
    assert notes == ("of several genotypes the last one, in line 151, is read",)
    log.write_text("\n".join([*lines, f"genotype = {CELL[:300]}"]))  # killed while it was written
    genotype, notes = read_cell(str(log))
    assert genotype == DARTS.parse(OTHER)
    assert "ends within its last genotype: the one before it, in line 149, is read" in notes[0]
    log.write_text(f"genotype = {CELL[:300]}")
    refused(str(log), "log.txt", "line 1" if "\n" in log.read_text() else "character", "ends too early")
    log.write_text("\n".join([*lines, f"genotype = {CELL.replace('5x5', '9x9')}", "done"]))
    refused(str(log), "log.txt: line 151, column", "'dil_conv_9x9'", "nearest: dil_conv_5x5 or dil_conv_3x3")
    log.write_text(f"{fields(nested)}\n{str(fields(nested)).replace('dil_conv_5x5', 'sep_conv_3x3')}\n")
    assert read_genotype(str(log)) == DARTS.parse(OTHER)
    log.write_text("nothing here")
    refused(str(log), "malformed genotype 'nothing here'")


def test_cells_with_a_sparse_or_doubled_node_are_held_by_nasnet():
    sparse = [("sep_conv_3x3", 2, 0), ("sep_conv_5x5", 2, 1), ("max_pool_3x3", 3, 0)]
    genotype = read_genotype(
        f"Genotype(normal={sparse}, normal_concat=[2, 3], reduce={sparse}, reduce_concat=[3])"
    )
    assert genotype.space == "nasnet"
    assert [(e.source, e.target) for e in genotype.cells[0].edges] == [(0, 2), (1, 2), (0, 3)]
    assert read_genotype(NASNET.format(genotype)) == genotype
    doubled = CELL.replace("('skip_connect', 1)", "('skip_connect', 0)", 1)
    genotype = read_genotype(doubled)
    assert genotype.space == "nasnet"
    network = NASNET.network(genotype, channels=4, cells=3)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    with pytest.raises(GenotypeError, match="the 5 intermediate nodes of the space 'nasnet' are 2 to 6"):
        NASNET.choice(genotype)
    with pytest.raises(GenotypeError, match="same source 0"):
        NASNET.choice(read_genotype("nasnet_a"))  # the supernet has one operation on an edge
    found = NASNET.random(random.Random(0))
    assert len(NASNET.choice(found)) == NASNET.num_slots
    other = (
        NASNET.format(found).replace("sep_conv_5x5", "dil_conv_5x5").replace("sep_conv_7x7", "dil_conv_5x5")
    )
    with pytest.raises(GenotypeError, match="unknown operation 'dil_conv_5x5'"):
        NASNET.choice(read_genotype(other, "nasnet"))


# Parameters with C = 36 and 20 cells, without the auxiliary head. Those of the first four are what the
# network of the DARTS repository counts; `published` are the millions in the papers.


@pytest.mark.parametrize(
    ("name", "parameters", "published"),
    [
        ("darts_v1", 3_169_414, None),
        ("darts_v2", 3_349_342, "3.3"),
        ("nasnet_a", 3_830_950, None),
        ("amoebanet_a", 3_145_078, None),
        ("pc_darts_cifar", 3_634_678, "3.6"),
        ("pdarts", 3_433_798, "3.4"),
        ("gdas", 3_368_782, "3.4"),
        ("sdarts_adv", 3_344_806, "3.3"),
        ("sgas_cri1", 3_795_166, "3.8"),
    ],
)
def test_parameters_of_published_cells(name, parameters, published):
    genotype = read_genotype(name.upper().replace("_", "-"))
    with torch.device("meta"):
        network = search_spaces.get(genotype.space).network(genotype, channels=36, cells=20)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert published in (None, f"{parameters / 1e6:.1f}")


@pytest.mark.parametrize(
    "name", ["sep_conv_7x7", "conv_3x1_1x3", "conv_7x1_1x7", "max_pool_5x5", "max_pool_7x7"]
)
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 2), (7, 2), (8, 1)])
def test_operations_of_nasnet(name, size, stride):
    module = search_spaces.operations.build(name, 4, 4, stride, torch.nn.BatchNorm2d).double()
    x = torch.randn(2, 4, size, size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    out = module(x.requires_grad_())
    assert out.shape == (2, 4, -(-size // stride), -(-size // stride))
    (fast,) = torch.autograd.grad(out.square().sum(), x)
    plain = x.detach().contiguous().requires_grad_()
    (slow,) = torch.autograd.grad(module(plain).square().sum(), plain)
    torch.testing.assert_close(fast, slow)


# NAS-Bench-201


@pytest.mark.parametrize(
    "text",
    [
        ARCH,
        f"Structure(4 nodes with {ARCH})",
        f"<<<--->>> The 7-th epoch : Structure(4 nodes with {ARCH})",
        f"'{ARCH}'",
        ARCH.replace("none~0|", ""),
        ARCH.replace("+", " + "),
        f"best arch is {ARCH}.",
        "[(('nor_conv_3x3', 0),), (('none', 0), ('skip_connect', 1)), (('avg_pool_3x3', 0), ('nor_conv_1x1', "
        "1), ('nor_conv_3x3', 2))]",
        "Structure([(('nor_conv_3x3', 0),), (('skip_connect', 1),), (('nor_conv_3x3', 2), ('nor_conv_1x1', "
        "1), ('avg_pool_3x3', 0))])",
        "(2, 1, 4, 0, 3, 2)",
        "[2, 1, 4, 0, 3, 2]",
        "[2 1 4 0 3 2]",
        "op_indices = [np.int64(2), 1, 4, 0, 3, 2]",
        "Final architecture hash: (2, 1, 4, 0, 3, 2)\nTest accuracy: 91.0",
        f"arch {ARCH} [1, 2, 3, 4, 5, 6]",
        '{"cell/0_1": "conv_3x3", "cell/0_2": "none", "cell/1_2": "skip_connect", '
        '"cell/0_3": "avg_pool_3x3", '
        '"cell/1_3": "conv_1x1", "cell/2_3": "conv_3x3"}',
        "{'0_1': 'nor_conv_3x3', '1_2': 'skip_connect', '0_3': 'avg_pool_3x3', "
        "'1_3': 'conv_1x1', '2_3': 'conv_3x3'}",
        f"nasbench201:{benchmark.benchmark_order().index(ARCH)}",
    ],
)
def test_ways_to_write_a_cell_of_the_benchmark(text, tmp_path):
    genotype, notes = read_cell(text)
    assert genotype == NASBENCH.parse(ARCH)
    assert ("2→3" in str(notes)) == ("2, 1, 4" in text or "2 1 4" in text or "np" in text)
    (tmp_path / "log").write_text(f"{text}\nend of the log")
    if text[0] not in "([{":
        assert read_genotype(str(tmp_path / "log")) == genotype


def test_indices_are_those_of_the_benchmark(shared_data):
    with gzip.open(shared_data / "nats_tss_test_accuracy.csv.gz", "rt") as file:
        listed = {int(row["index"]): row["arch"] for row in csv.DictReader(file)}
    assert dict(enumerate(benchmark.benchmark_order())) == listed


def test_order_of_the_benchmark_and_of_naslib():
    order = benchmark.benchmark_order()
    assert zlib.crc32("\n".join(order).encode()) == CRC
    best, second = read_genotype("nasbench201:6111"), read_genotype("NAS-Bench-201: 9930")
    assert NASBENCH.format(best).endswith("|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|")
    assert NASBENCH.format(second).endswith("|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|")
    assert [naslib.write(cell) for cell in (best, second)] == ["(2, 2, 0, 2, 2, 3)", "(2, 2, 0, 2, 2, 2)"]
    assert len({naslib.write(NASBENCH.parse(text)) for text in order[::25]}) == 625
    for text in order[::500]:
        assert read_genotype(naslib.write(NASBENCH.parse(text))) == NASBENCH.parse(text)
    refused("nasbench201:15625", "no cell 15625", "0 to 15624")


CRC = 3194400241


# Errors


@pytest.mark.parametrize(
    ("text", "space", "words"),
    [
        (
            CELL.replace("sep_conv_3x3', 0", "sep_conv_9x9', 0", 1),
            None,
            [
                "character 19:",
                "unknown operation 'sep_conv_9x9' for the space 'darts'",
                "nearest: sep_conv_5x5 or sep_conv_3x3",
            ],
        ),
        (
            CELL.replace("sep_conv_3x3", "sep_conv_7x7", 1),
            "darts",
            [
                "character 19:",
                "unknown operation 'sep_conv_7x7'",
                "nearest: sep_conv",
                "the space 'nasnet' holds it",
            ],
        ),
        (
            CELL.replace("'skip_connect', 1", "'skip_connect', 0", 1),
            "darts",
            [
                "character 40:",
                "both edges into node 2 of 'normal' have the same source 0",
                "reads 1",
                "'nasnet' holds",
            ],
        ),
        (
            PUBLISHED["nasnet_a"][1],
            "darts",
            [
                "'normal' has edges into the nodes 2, 3, 4, 5, 6",
                "4 intermediate nodes",
                "2 to 5",
                "'nasnet' holds it",
            ],
        ),
        (
            PUBLISHED["nasnet_a"][1].replace("7x7', 0", "8x8', 0", 1),
            None,
            ["unknown operation 'sep_conv_8x8' for the space 'nasnet'", "nearest: sep_conv_"],
        ),
        (
            CELL.replace("'skip_connect', 1", "'skip_connect', 2", 1),
            None,
            [
                "character 40",
                "the source 2 of 'skip_connect' in 'normal' is not a node before node 2",
                "0 to 1",
            ],
        ),
        (
            CELL.replace("'skip_connect', 1", "'skip_connect', 'x'", 1),
            None,
            ["pair 1 of 'normal'", "number of a node"],
        ),
        (
            CELL.replace("('skip_connect', 1), ", "", 1),
            None,
            ["'normal' has 7 pairs, expected two for every node"],
        ),
        (CELL.replace("('skip_connect', 1)", "'skip_connect'", 1), None, ["pair 1 of 'normal' is not an"]),
        (
            CELL.replace("range(2, 6)", "[2, 7]", 1),
            None,
            ["'normal_concat' must name distinct nodes from 2 to 5"],
        ),
        (CELL.replace(", reduce_concat=range(2, 6)", ""), None, ["the genotype has no 'reduce_concat'"]),
        (CELL.replace("(2, 6))", "(2, 6), more=1)"), None, ["unknown field 'more'"]),
        (
            CELL.replace("range(2, 6)", "__import__('os')", 1),
            None,
            ["'normal_concat' must be a list of nodes"],
        ),
        (CELL[:-20], None, ["character 391", "malformed genotype"]),
        ("Genotype(normal=x)", None, ["'x' is a name, expected a value"]),
        (
            ARCH.replace("none~0", "sep_conv_3x3~0"),
            None,
            ["'sep_conv_3x3' for the space 'nasbench201'", "nearest: nor"],
        ),
        (
            ARCH.replace("none~0", "none~7"),
            None,
            ["'nasbench201' has no edge from node 7 to node 2", "0→1, 0→2"],
        ),
        (
            ARCH.replace("none~0", "none~1"),
            None,
            ["edge from node 1 to node 2 is given twice", "nasbench201"],
        ),
        (ARCH[:-3], None, ["nasbench201"]),
        (ARCH + "+|none~0|none~1|none~2|none~3|", None, ["nasbench201"]),
        (ARCH, "darts", ["cells 'cell'", "'darts' are 'normal', 'reduce'; the space 'nasbench201' holds it"]),
        (CELL, "micro", ["'micro' are 'cell'; the space 'darts' holds it"]),
        ("|nor_conv_3x3~0|+|none~0|nor_conv_5x5~1|", None, ["'nor_conv_5x5' for the space 'micro'"]),
        (
            f"Structure(4 nodes with {ARCH[:60]}|)",
            None,
            ["character 24", "malformed genotype for the space 'nasbench201'"],
        ),
        ("(2, 1, 4, 0, 3, 5)", None, ["5 is no operation", "0 to 4: skip_connect, none", "character 17"]),
        ("(((0, 3), (1, 9)), ((0, 3), (1, 0)))", None, ["9 is no operation", "max_pool_3x3"]),
        (
            '{"normal/op_2_0": "sep_conv_3x3"}',
            None,
            ["'normal/op_2_0' and 'normal/input_2_0' belong together"],
        ),
        ("{'normal': 3}", None, ["has no 'normal_concat'"]),
        ("[]", None, ["malformed genotype"]),
        ("nasbench201:", None, ["published cell or genotype file"]),
        ("darts_v3", None, ["did you mean darts_v"]),
        ("dartz(none, none)", None, ["malformed genotype", "a notation of one of"]),
    ],
)
def test_errors_name_the_place_and_what_would_do(text, space, words, tmp_path):
    message = refused(text, *words, space=space)
    mentioned = set(re.findall(r"the space '(\w+)'", message))
    assert all(name == space or f"'{name}'" in str(words) for name in mentioned), message
    if any(mark in text for mark in "([{|"):
        path = tmp_path / "cell.txt"
        path.write_text("# a cell\n" + text if text[0] not in "[({" else text)
        refused(str(path), "cell.txt", *[word for word in words if "character" not in word], space=space)


@pytest.mark.parametrize(
    "text", ['{"space":"darts","cells":[]}', '{"cells":3}', '{"space":"darts","cells":3}']
)
def test_damaged_json_as_a_text_ends_in_one_line(text):
    with pytest.raises(InputError, match="`genotype`: "):
        read_cell(text)


def test_operations_that_a_chain_has_not_are_named():
    space = search_spaces.get("nasbench_macro")
    genotype = space.parse("10212200")
    first = genotype.cells[0]
    edge = replace(first.edges[0], operation="magic")
    odd = replace(genotype, cells=(replace(first, edges=(edge, *first.edges[1:])), *genotype.cells[1:]))
    with pytest.raises(GenotypeError, match="unknown operation 'magic'"):
        space.validate(odd)


def test_a_published_name_that_is_here_too_is_said(tmp_path, monkeypatch):
    """Not refused: a run of it, in a folder of that name, has to go on."""
    monkeypatch.chdir(tmp_path)
    assert read_cell("snas").notes == ()
    Path("snas").mkdir()
    genotype, notes = read_cell("snas")
    assert genotype == search_spaces.get("darts").parse(PUBLISHED["snas"][1])
    assert notes == ("'snas' is the published cell; what is here by that name is ./snas",)


def test_pickled_files_are_not_read(tmp_path):
    (tmp_path / "checkpoint.pth").write_bytes(b"\x80\x04.")
    refused(
        str(tmp_path / "checkpoint.pth"),
        "checkpoint.pth",
        "could run code and is not read",
        "print its genotype",
    )
    (tmp_path / "binary.log").write_bytes(b"\xff\xfe\x00")
    refused(str(tmp_path / "binary.log"), "binary.log")


@pytest.mark.parametrize(
    "text",
    [
        "{" * 10**6,
        '{"normal": ' * 10**5,
        "Genotype(normal=[" * 10**5,
        "[[[" * 10**5,
        "|a~0|+" * 10**5,
        "(" * 10**6,
        "a" * 10**6 + "Genotype(",
        "[1, " * 10**5,
        "Genotype(normal=" + "[" * 10**5,
        "{'normal'" * 10**5,
        "\n" * 10**6,
        "Genotype(normal=[], " * 10**4,
        ("Genotype(" + " " * 500) * 3000,
        "arch [[[1," * 10**5,
        "|" * 10**6,
    ],
)
def test_large_odd_texts_are_refused_quickly(text, tmp_path):
    (tmp_path / "odd.txt").write_text(text)
    with little_memory(150):
        refused(str(tmp_path / "odd.txt"), "odd.txt")


# Writing


@pytest.mark.parametrize("name", writers.WRITERS.names())
@pytest.mark.parametrize("space", search_spaces.names())
def test_what_is_written_is_read_as_the_same_cell(name, space):
    space = search_spaces.get(space)
    for seed in range(5):
        genotype = space.random(random.Random(seed))
        try:
            text = nas.convert(genotype, name)
        except InputError as error:
            assert "says cells of" in str(error) or "that of NNI of" in str(error), error  # noqa: PT017
            assert space.name not in writers.WRITERS.get(name).spaces or name == "nni"
            continue
        assert read_genotype(text, space.name) == genotype
        assert read_genotype(text).cells == genotype.cells
        assert nas.convert(text, "text", space.name) == space.format(genotype)


def test_notations_of_tools():
    assert nas.convert("darts_v2", "confopt").startswith("DARTSGenotype(normal=[('sep_conv_3x3', 0), ")
    assert nas.convert(ARCH, "autodl") == f"Structure(4 nodes with {ARCH})"
    assert nas.convert("nasbench201:9930", "naslib") == "(2, 2, 0, 2, 2, 2)"
    assert nas.convert("(2, 2, 0, 2, 2, 2)", "index") == "nasbench201:9930"
    assert json.loads(nas.convert(ARCH, "nni"))["cell/0_1"] == "conv_3x3"
    assert json.loads(nas.convert(CELL, "nni"))["normal/input_3_0"] == [2]
    assert nas.convert(CELL, "autodl").startswith("{'normal': [(('sep_conv_3x3', 0), ('skip_connect', 1)), ")
    assert nas.convert(CELL, "naslib").startswith("(((0, 3), (1, 2), (2, 6), (0, 0), ")
    assert json.loads(nas.convert(CELL, "json"))["text"] == CELL
    for cell, to, words in (
        (
            "darts_v2",
            "index",
            "says cells of nasbench201, this is one of 'darts': choose one of text, json, darts",
        ),
        (ARCH, "darts", "choose one of text, json, autodl, index, naslib, nni"),
        ("amoebanet_a", "naslib", "choose one of text, json, darts, confopt, autodl, nni"),
        (
            CELL.replace("range(2, 6)", "[2, 3]", 1),
            "naslib",
            r"the output of 'normal' is of the nodes \(2, 3\)",
        ),
        (CELL.replace("range(2, 6)", "[2, 3]", 1), "nni", r"the output of 'normal' is of the nodes \(2, 3\)"),
        (ARCH, "nasli", "unknown notation 'nasli'.*did you mean naslib"),
        (None, "text", "expected a text, a path or a Genotype"),
    ):
        with pytest.raises(InputError, match=words):
            nas.convert(cell, to)


def test_loose_ends_are_said():
    text = (
        nas.convert("nasnet_a", "darts")
        .replace("range(2, 7)", "[4, 5, 6]")
        .replace("range(4, 7)", "[4, 5, 6]")
    )
    with pytest.raises(InputError, match="nodes that no other reads"):
        nas.convert(text.replace("reduce_concat=[4, 5, 6]", "reduce_concat=[6]"), "nni")
    reduce_only = "amoebanet_a"
    genotype, notes = read_cell(nas.convert(reduce_only, "nni"))
    assert genotype == read_genotype(reduce_only)
    assert "NNI says nothing of the output" in notes[0]


# The command, and the files of a run


def test_command(capsys, tmp_path):
    assert commands.main(["convert", ARCH, "--to", "naslib"]) == 0
    assert capsys.readouterr().out == "(2, 1, 4, 0, 3, 2)\n"
    assert commands.main(["convert", "(2, 1, 4, 0, 3, 2)"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{ARCH}\n"
    assert captured.err.startswith(
        "note: six indices are read as NASLib writes them: edges 0→1, 0→2, 0→3, 1→2"
    )
    for words, message in (
        ([], "no cell is given"), ([ARCH, "--to", "darts"], "choose one of"), (["darts_v3"], "did you mean"),
        ([CELL, "--space", "micro"], "'micro'"), ([ARCH, "--what"], "--what"),
    ):  # fmt: skip
        assert commands.main(["convert", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a search, an interrupted search and a training."""
    folder = tmp_path_factory.mktemp("runs")
    data = (torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2)
    small = {"data": data, "channels": 2, "batch_size": 20, "tensorboard": False, "progress": False}
    search = nas.search("micro", epochs=2, out=str(folder / "search"), **small)
    nas.search("micro", epochs=3, out=str(folder / "stopped"), callback=lambda m: m["epoch"] == 2, **small)
    nas.train("nasnet_a", epochs=1, cells=3, out=str(folder / "final"), **small)
    return folder, search.genotype


@pytest.mark.parametrize("name", ["", "genotype.json", "result.json"])
def test_files_of_a_search(name, runs):
    folder, genotype = runs
    assert read_cell(str(folder / "search" / name)) == (genotype, ())
    assert nas.convert(folder / "search" / name) == search_spaces.get("micro").format(genotype)


def test_metrics_and_an_interrupted_search(runs):
    folder, _ = runs
    for name in ("search", "stopped"):
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        genotype, notes = read_cell(str(folder / name / "metrics.jsonl"))
        assert search_spaces.get("micro").format(genotype) == json.loads(lines[-1])["genotype"]
        assert notes == ("this is what arg-max finds after epoch 2",)
    stopped, notes = read_cell(str(folder / "stopped"))
    assert stopped == genotype
    assert "is unfinished (--resume --out" in notes[0]
    refused(str(folder), "holds no cell", "genotype.json")
    refused(str(folder / "search" / "config.json"), "config.json", "give the run folder")
    refused(str(folder / "final" / "metrics.jsonl"), "no line has a genotype")
    refused(str(folder / "search"), "belongs to the space 'micro'", space="darts")


@pytest.mark.parametrize("name", ["", "genotype.json", "result.json", "config.json", "model.safetensors"])
def test_files_of_a_training(name, runs):
    folder, _ = runs
    assert read_cell(str(folder / "final" / name)) == (read_genotype("nasnet_a"), ())
    assert nas.load(folder / "final" / "model.safetensors").description["text"] == PUBLISHED["nasnet_a"][1]


def test_damaged_files(tmp_path):
    for name, content, words in (
        ("model.safetensors", b"\x00" * 20, "no file of safetensors"),
        (
            "config.json",
            b'{"kind": "final", "genotype": "config.json", "space": null}',
            "give the run folder",
        ),
        ("result.json", b'{"kind": "search", "genotype": 3}', "without `genotype`"),
        ("metrics.jsonl", b'{"genotype": "x"}', "published cell"),
        ("genotype.json", b'{"space": "micro"}', "genotype JSON must be an object"),
    ):
        (tmp_path / name).write_bytes(content)
        if "published" in words:
            refused(str(tmp_path / name), name)
        elif name == "config.json":
            refused("config.json", name)
        else:
            refused(str(tmp_path / name), name, words)
