"""The options of the two entry points. This package knows numbers only: it imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

from recipes.budget import parse_budget, parse_budgets
from recipes.errors import InputError
from recipes.growth import check_growth

Dataclass = TypeVar("Dataclass")
Options = TypeVar("Options", bound="RunOptions")

LARGEST = 10**9  # no integer option is meant to exceed it, unless it says otherwise


@dataclass(frozen=True)
class Range:
    """The numbers that an option may have; None bounds nothing."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a number is in the range; infinity and NaN never are."""
        return (
            -math.inf < value < math.inf
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """E.g. `of at least 1`, `above 0 and below 1`."""
        bounds = {
            "at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below,
        }  # fmt: skip
        text = " and ".join(f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None)
        return f"of {text}" if text.startswith("at") else text


def option(default: Any, *, free: bool = False, **bounds: float) -> Any:
    """A field of options.

    Args:
        bounds: of its numbers, as in Range.
        free: whether a continued run may have another value than the run so far: it changes no result.
    """
    return field(default=default, metadata={"range": Range(**bounds), "free": free})


@dataclass(kw_only=True)
class RunOptions:
    """Options that searching and final training share."""

    kind: ClassVar[str]
    interrupted: ClassVar[str] = "continue at the last checkpoint with --resume --out FOLDER"

    preset: str | None = None
    """Named recipe that sets the defaults of the options below it (`nas presets` lists them)."""
    config: str | None = None
    """JSON file whose values become the defaults, e.g. the config.json of an earlier run."""
    out: str | None = option(None, free=True)
    """Run folder; by default a name under runs/ made from space, estimator, data set and seed."""
    resume: bool = option(False, free=True)
    """Continue the run in --out at its last checkpoint, with the options stored there."""
    overwrite: bool = option(False, free=True)
    """Delete an earlier run in --out first."""
    plugins: tuple[str, ...] = option((), free=True)
    """Python files or modules that are imported first: they register estimators, operations, spaces, data
    sets, terms, policies, shrinkings or rules of your own, and may import what lies beside them. Only what
    the command line names is imported."""
    seed: int = option(0, at_least=0, at_most=2**63 - 1)
    """Seed of everything random; equal seeds give equal runs on the CPU."""

    dataset: str = "digits"
    """digits, cifar10, cifar100, imagenet16-120, mnist, fashion_mnist, kmnist, svhn, stl10, oxford_pets,
    flowers102, food101; or folder:PATH (class folders, under train/, val/ and test/ or not), csv:FILE
    (paths and labels), arrays:FILE.npz (images and labels)."""
    data_root: str = option("data", free=True)
    """Folder that holds the data sets with a name of their own."""
    download: bool = option(False, free=True)
    """Download the data set into --data-root where it is missing, through torchvision."""
    image_size: int = option(32, at_least=4, at_most=4096)
    """Side in pixels that image files are resized to."""
    channels_in: Literal["auto", "1", "3"] = "auto"
    """Channels of the images: as they are, or grey (1) or colours (3) made of the other."""
    pixel_range: str = "auto"
    """Values of image files that count as 0 and 1: auto (0:255 of 8 bits, otherwise what occurs in the whole
    data set) or LOW:HIGH, such as 0:4095."""
    bad_images: Literal["refuse", "leave_out"] = "refuse"
    """What becomes of image files that cannot be read."""
    test_fraction: float = option(0.2, above=0, below=1)
    """Part of the images set aside as test set where the data set has none."""
    train_limit: int | None = option(None, at_least=1)
    """Use only about so many training images, drawn evenly over the classes (default: all)."""
    data_budget_gb: float = option(8.0, at_least=0)
    """Data above this size (GB) stay in pinned host memory instead of on the device."""

    epochs: int = option(30, at_least=1)
    """Passes over the training images."""
    batch_size: int = option(64, at_least=2)
    """Images a step, all processes of a torchrun job together."""
    sync_batch_norm: bool = False
    """Normalise with the statistics of the whole batch, not of the slice of each process; slower."""
    label_smoothing: float = option(0.0, at_least=0, below=1)
    """Probability mass that is spread over the other classes in training."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weigh classes in the training loss by the inverse of their number of images."""
    sampling: Literal["all", "balanced"] = "all"
    """balanced: an epoch has equally many images of each class, those of small ones several times."""
    channels: int = option(16, at_least=1, at_most=4096)
    """Channels of the first cells (C), or of the stem, in units of which are all others (mobile)."""
    cells: int | None = option(None, at_least=1, at_most=1000)
    """Cells per stage (nasbench201, micro) or cells in all (darts); default: the fewest, 1 or 3."""
    planned_size: int | None = option(None, at_least=1, at_most=4096)
    """Side in pixels of the images that the network is laid out for, its strides (mobile) or its stem (darts:
    from 128 on that of the published ImageNet networks); default: that of the images."""
    lr: float = option(0.05, above=0)
    """Learning rate of the weights at the start."""
    lr_min: float = option(0.0, at_least=0)
    """Learning rate of the weights at the end of the cosine decay."""
    momentum: float = option(0.9, at_least=0, below=1)
    """Momentum of the weights."""
    weight_decay: float = option(5e-4, at_least=0)
    """Weight decay of the weights."""
    clip: float = option(5.0, at_least=0)
    """Largest norm of the weights' gradient; 0 turns clipping off."""
    crop_padding: int | None = option(None, at_least=0, at_most=4096)
    """Pixels that images are padded by before a random crop (default: the data set's)."""
    flip: bool | None = None
    """Mirror training images at random (default: the data set's)."""
    cutout: int = option(0, at_least=0, at_most=4096)
    """Side in pixels of a random square that is blanked in training images; 0 turns it off."""

    latency_table: str | None = None
    """JSON file of `nas latency`, with the latencies of a machine: what networks are said to
    take."""

    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    threads: int | None = option(None, at_least=1, at_most=1024)
    """CPU threads (default: all cores)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto is bfloat16 autocast on CUDA and float32 on the CPU."""
    channels_last: bool = True
    """Keep feature maps in channels-last memory order; faster on CPU and GPU."""
    deterministic: bool = False
    """Use deterministic algorithms only, so that equal seeds give equal runs on CUDA, too; slower there."""
    max_skipped_steps: int = option(20, at_least=0, free=True)
    """Steps of a run that may be skipped because their loss or gradient is not finite; one more ends it."""
    checkpoint_every: int = option(1, at_least=1, free=True)
    """Epochs between checkpoints; the last epoch always leaves one."""
    checkpoint_steps: int = option(0, at_least=0, free=True)
    """Steps between further checkpoints inside epochs; 0: none."""
    checkpoint_minutes: float = option(10.0, at_least=0, free=True)
    """Minutes after which a step leaves a checkpoint wherever it is; 0: none."""
    evaluate_every: int = option(1, at_least=1)
    """Epochs between evaluations; the last epoch is always evaluated."""
    tensorboard: bool = True
    """Write TensorBoard events."""


@dataclass(kw_only=True)
class SearchOptions(RunOptions):
    """Search an architecture."""

    kind: ClassVar[str] = "search"

    epochs: int = option(60, at_least=1)
    """Passes over the training part of the images."""
    space: str = "nasbench201"
    """Search space: nasbench201, micro, darts, s1, s2, s3, s4, nasnet, mobile, mobile_se or
    nasbench_macro."""
    estimator: str = "reinmax"
    """Gradient estimator: reinmax, reinmax_beta, reinmax_rao, reinmax_cv, st, st_gumbel, gumbel_rao, gst,
    redge, reindge, softmax, concrete, dirichlet, reinforce, reinforce_loo, double_cv, reinforce_critic or
    sigmoid; with settings if wanted: gumbel_rao:samples=20."""
    tau: str | None = None
    """Temperature: a number, or START:END for a linear schedule (default: the estimator's own)."""
    edge_gradient: Literal["lean", "compiled", "captured", "dense", "surrogate"] = "lean"
    """Gradient of the draws: lean (exact), compiled (the same by torch.compile, for GPUs), captured (the
    same by CUDA graphs and compiled products, the fastest way on a GPU), dense (exact, plain autograd) or
    surrogate (GDAS)."""
    draws: int | None = option(None, at_least=1, at_most=1_000_000)
    """Independent draws per architecture step, averaged (default: 1; 4 for reinforce_loo,
    double_cv and reinforce_critic)."""
    draw_per: Literal["step", "rank", "image"] = "step"
    """step: a step draws for the whole batch; rank: every process of a torchrun job draws its own
    architecture, and the gradients are averaged; image: in architecture steps every image draws its own,
    in one pass over all candidates (the same mean; less variance only where the images agree; the
    memory of all candidates)."""
    coupling: Literal["independent", "systematic"] = "independent"
    """How the draws of an architecture step belong together: systematic ones cover the probabilities of every
    slot evenly, which has the same mean and less spread; not for estimators that compare draws."""
    architecture_loss: Literal["loss", "error"] = "loss"
    """What architecture steps minimise: the loss, or the share of images that are classified wrongly, for
    estimators that make do with values, such as reinforce_loo and reinforce_critic."""
    partial_channels: int = option(1, at_least=1, at_most=4096)
    """Only 1 / so many of the channels of a node go through the candidates of an edge in the search, the
    others bypass them (4 in PC-DARTS), for less memory and time; a derived network is as ever."""
    edge_normalisation: bool = False
    """Weigh the edges into a node against each other, with weights that are learned in architecture steps and
    count in the derivation (PC-DARTS)."""
    order: Literal[1, 2] = 1
    """1: weights are held fixed in architecture steps; 2: one unrolled weight step (DARTS)."""
    nesterov: bool = True
    """Nesterov momentum for the weights."""
    warmup_epochs: int | None = option(None, at_least=0)
    """Epochs at the start with weight steps only; all of them where a rule alone is to decide (default: half
    of --epochs)."""
    stop_entropy: float = option(0.0, at_least=0)
    """End the search, and select, after an epoch in which the mean entropy of the decisions falls below so
    many nats; 0: do all epochs."""
    stop_skips: int = option(0, at_least=0)
    """End the search, and select, after an epoch in which the most probable candidates make so many skip
    connections in a cell of a normal kind (DARTS+: 2); 0: do all epochs."""
    val_fraction: float = option(0.5, above=0, below=1)
    """Part of the training images that serves the architecture steps where the data set has no validation
    part of its own."""
    prior: float = option(0.0, at_least=0, at_most=100)
    """Where the search starts: the logit of a candidate is this times its share of the parameters of its
    slot's largest candidate; 0: all candidates alike."""
    arch_lr: float = option(0.02, above=0)
    """Learning rate of the logits (Adam)."""
    arch_weight_decay: float = option(1e-3, at_least=0)
    """Weight decay of the logits."""
    arch_clip: float = option(1.0, at_least=0)
    """Largest norm of the logits' gradient; 0 turns clipping off."""
    measure_every: int = option(0, at_least=0)
    """Epochs between measurements of the architecture gradient: how far is every estimator from the
    truth on a fixed validation batch? 0: none. All architectures of micro are run for it, elsewhere
    a thousand."""
    curvature_every: int = option(0, at_least=0)
    """Epochs between measurements of the largest eigenvalue of the Hessian of the validation loss by the
    logits, at the mixture of all candidates and on one batch, which needs about three times the memory of a
    step of the softmax estimator; 0: none."""
    alignment_every: int = option(0, at_least=0)
    """Epochs between measurements of how far the cells of a kind want the same architecture: the mean cosine
    of the gradients of the validation loss by their own copies of the probabilities, at the mixture of all
    candidates and on one batch (Lambda-DARTS); 0: none."""
    stop_curvature: float | None = option(None, above=1)
    """End the search when the mean of five measurements of --curvature-every is more than this many times
    that of four measurements earlier, and select by the logits of then (RobustDARTS: 1.3, every 2 epochs)."""
    terms: tuple[str, ...] = ()
    """What the architecture step minimises beside the loss: beta_decay, entropy, uniform_decay or zero_one
    (with sigmoid); or weight steps, alignment of the cells (Lambda-DARTS); or oles, which trains operations
    no more that overfit. Each with settings if wanted: entropy:weight=0:0.1 rises from 0 to 0.1 over the
    run."""
    keep_weights_every: int = option(0, at_least=0, free=True)
    """Epochs between files of the shared weights, which `ablate.py rank --epochs` compares; 0: none."""
    policy: str = "draw"
    """What a weight step trains: draw (an architecture from the estimator), uniform (any, with equal
    probability), fair (as many as a slot has candidates, every candidate once), dense (the sum of all,
    whatever is learned), perturbed (the mixture of all near the probabilities) or adversarial (the worst
    mixture near them; adversarial:steps=7 costs 8 steps of the mixture)."""
    shrink: str = "none"
    """What is taken out of the search between epochs, so that nothing draws it any more: none; probability,
    one candidate after another, the least probable; stages, at the half all but the likeliest of every slot,
    or in several stages, stages:keep=5:3; information, near the end, by what the outputs of candidates are
    like; zero_cost or te_nas, all but one architecture before the first step; with settings if wanted:
    probability:keep=2. shapley takes nothing out: it moves the logits by what candidates contribute to the
    accuracy, in place of architecture steps."""
    grow: str | None = None
    """Stages of equal length, before the last of which the supernet has other sizes: cells=5:11 before
    --cells 17 (also channels), with new weights and a new learning-rate schedule in every stage; or
    partial_channels=4 before --partial-channels 2, with weights that are widened."""
    auxiliary_skip: str | None = None
    """Strength of a skip connection that is added to every edge while searching, whatever is drawn: a number,
    or START:END for a linear schedule, such as 1:0 (DARTS-); several, with commas, are for as many equal
    stages. Derived networks have none."""
    skip_dropout: str | None = None
    """Probability that a value behind a skip connection is dropped while searching: a number, or START:END
    for a linear schedule, such as 0.3:0 (P-DARTS); or several, as above."""
    max_skips: int | Literal["auto"] | None = option("auto", at_least=0)
    """Most skip connections in a derived cell of a normal kind, by whatever rule derives; None: any number;
    auto: 2 in darts and spaces like it, as P-DARTS has it, and any number in others."""
    derive: str = "argmax"
    """Rule that selects the architecture in the end: argmax; sample:K to score K drawn architectures with the
    shared weights; evolution:K to score K that descend from each other; ascent, coordinate ascent on these
    scores; perturbation:EPOCHS, what the supernet misses most, with so many epochs of training after every
    decision; shapley, what contributes most to the accuracy of the supernet; or halving:K, short trainings
    from scratch of K architectures, of which the better half is trained twice as long, and so on; with K = 1
    none is trained, and the score that chooses them decides (halving:1,draws=400,by=naswot)."""

    budget: tuple[str, ...] = ()
    """What the derived network may cost at most, several at once: parameters=1.5M macs=60M latency=12ms (the
    latter with --latency-table). It is kept exactly, by whatever rule derives, in the size that the next
    options say, by default in that of the search; give train_final.py the same --channels and --cells."""
    budgets: str | None = None
    """Several budgets of one kind for one search, e.g. macs=20M,40M,60M: an architecture for each, and what
    they cost beside how accurate they are."""
    budget_channels: int | None = option(None, at_least=1, at_most=4096)
    """Channels of the network that the budgets speak of (default: --channels)."""
    budget_cells: int | None = option(None, at_least=1, at_most=1000)
    """Cells of the network that the budgets speak of (default: --cells)."""
    budget_image_size: int | None = option(None, at_least=4, at_most=4096)
    """Side in pixels of the images that the budgets speak of (default: those of the search)."""

    @property
    def warmup(self) -> int:
        """Number of warm-up epochs."""
        return self.epochs // 2 if self.warmup_epochs is None else self.warmup_epochs


@dataclass(kw_only=True)
class FinalOptions(RunOptions):
    """Train an architecture, from scratch or from saved weights, and test it."""

    kind: ClassVar[str] = "final"

    genotype: str | None = None
    """Architecture: a run folder or a file of it, the name of a published cell, or a genotype as this or
    another tool prints it, in a text or in a file (docs/cells.md)."""
    space: str | None = None
    """Search space of the genotype (default: found from the genotype)."""
    weights: str | None = None
    """Start from the weights in this file, or in the folder of a training, and train them on; without
    --genotype their architecture, size and --image-size, too. Of weights of another network, e.g. one with
    another head, those are taken that fit by name and shape, and the rest is listed."""
    optimizer: str = "sgd"
    """Any optimizer timm knows, e.g. sgd (Nesterov), momentum, adamw."""
    scheduler: str = "cosine"
    """Learning-rate scheduler of timm: cosine, tanh, step (a tenth at each third of the run) or poly."""
    warmup_epochs: int = option(0, at_least=0)
    """Epochs in which the learning rate rises linearly."""
    drop_path: float = option(0.0, at_least=0, below=1)
    """Drop-path probability that the epochs rise to linearly from 0, as in DARTS (darts, mobile,
    nasbench_macro)."""
    auxiliary_weight: float = option(0.0, at_least=0)
    """Weight of the auxiliary head's loss; 0 builds none (darts)."""
    mixup: float = option(0.0, at_least=0)
    """Mixup alpha; 0 turns it off."""
    cutmix: float = option(0.0, at_least=0)
    """CutMix alpha; 0 turns it off."""
    auto_augment: str | None = None
    """timm policy such as rand-m9-mstd0.5; images are augmented one by one on the CPU."""
    ema_decay: float = option(0.0, at_least=0, below=1)
    """Decay of an exponential moving average of the weights, which is then tested; 0: none."""
    compile: bool = False
    """Compile the network with torch.compile; pays for long runs."""


def check_numbers(options: Dataclass) -> Dataclass:
    """Return options of any kind if every value by itself is in its range; raises InputError."""
    for entry in fields(options):  # type: ignore[arg-type]
        value, bounds = getattr(options, entry.name), entry.metadata.get("range", Range())
        if isinstance(value, int | float) and not isinstance(value, bool):
            if type(value) is int and bounds.at_most is None:
                bounds = replace(bounds, at_most=LARGEST)
            if not bounds.holds(value):
                raise InputError(f"`{entry.name}` is {value}, expected a number {bounds}")
        if isinstance(value, str) and ("\0" in value or value.encode(errors="replace").decode() != value):
            raise InputError(
                f"`{entry.name}` is not valid UTF-8, or contains a zero byte: rename the file or folder"
            )
    return options


def check(options: Options) -> Options:
    """Return `options` if they are in their ranges and go together; raises InputError."""
    check_numbers(options)
    warmup = getattr(options, "warmup_epochs", None)
    most = options.epochs if isinstance(options, SearchOptions) else options.epochs - 1
    if warmup is not None and warmup > most:
        raise InputError(
            f"`warmup_epochs` is {warmup}, expected at most {most}, as `epochs` is {options.epochs}"
        )
    if isinstance(options, SearchOptions):
        _check_budgets(options)
        check_growth(options)
        if options.stop_curvature is not None and not options.curvature_every:
            raise InputError("`stop_curvature` needs `curvature_every`: give both, or drop it")
    if options.class_weights == "balanced" and options.sampling == "balanced":
        raise InputError(
            "`class_weights=balanced` and `sampling=balanced` would balance the classes twice: choose one"
        )
    if options.resume and options.overwrite:
        raise InputError("`resume` and `overwrite` were both given: choose one")
    if options.resume and not options.out:
        raise InputError("`resume` needs `out`, the folder of the run to continue")
    return options


def _check_budgets(options: SearchOptions) -> None:
    """Raise InputError if the budgets cannot be read, or not without a table."""
    kinds = [*parse_budget(options.budget)]
    sizes = ("budget_channels", "budget_cells", "budget_image_size")
    given = [name for name in sizes if getattr(options, name) is not None]
    if given and not (kinds or options.budgets or options.latency_table):
        raise InputError(f"`{given[0]}` is the size that a budget speaks of: give `budget`, too, or drop it")
    if options.budgets is not None:
        kind, _ = parse_budgets(options.budgets)
        if kind in kinds:
            raise InputError(f"`budget` and `budgets` both limit {kind}: choose one")
        kinds.append(kind)
    if "latency" in kinds and options.latency_table is None:
        raise InputError(
            "a latency budget needs `latency_table`, the latencies of a machine: measure them with "
            f"nas latency --space {options.space}"
        )
