"""Tables of README and docs agree with the code; lists of packages agree with each other."""

import ast
import importlib
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import packages_distributions

import pytest
import timm
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from fastreid.config import get_cfg
from fastreid.config.unsupported import REASONS
from fastreid.data.benchmarks import BENCHMARKS
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.samplers import SAMPLER_REGISTRY
from fastreid.evaluation import evaluate_rank
from fastreid.layers import NORM_REGISTRY, POOLING_REGISTRY, SOFTMAX_REGISTRY
from fastreid.methods.sd_reid.targets import OF_ALL, TARGETS
from fastreid.modeling.backbones import BACKBONE_REGISTRY, build_backbone
from fastreid.modeling.diffusion import OptionError
from fastreid.modeling.diffusion.guidance import GUIDANCE
from fastreid.modeling.diffusion.noise import NoiseSource
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.losses import LOSS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.rendering import DOMAINS, RenderConfig
from fastreid.solver import OPTIMIZER_REGISTRY, SCHEDULE_REGISTRY
from tests.miniature import ROOT
from tests.pages import MIGRATING, TEXTS, rows
from tests.recipes import RELEASED, leaves, merged


@pytest.mark.parametrize(("heading", "count"), [("## Described or released", 5), ("Not errors, but choices", 4)])
def test_described_and_released_are_what_the_configs_give(heading, count):
    recipe = ROOT / "configs/CARGO/base_stage2_step5.yml"
    described, released = leaves(merged(recipe)), leaves(merged(recipe, RELEASED))
    table = [cells[-3:] for cells in rows("docs/sd_reid.md", heading, count)]
    assert len(table) >= 7
    found = [[key, str(described[key]), str(released[key])] for key, *_ in table]
    assert table == found, "the table of docs/sd_reid.md is not what configs/ and defaults.py say"


def test_pisl_described_and_released_are_what_the_configs_give():
    recipe, overlay = ROOT / "configs/PISL/market1501.yml", ROOT / "configs/_base_/pisl_released.yml"
    described, released = leaves(merged(recipe)), leaves(merged(recipe, overlay))
    differ = [[key, str(described[key]), str(released[key])] for key in released if released[key] != described[key]]
    table = [cells[-3:] for cells in rows("docs/pisl.md", "## Described or released", 5)]
    assert sorted(table) == sorted(differ)


def test_every_pisl_key_is_explained():
    named = {key for keys, _ in rows("docs/pisl.md", "## Keys", 2) for key in keys.split(", ")}
    assert {key for key in leaves(get_cfg()) if key.startswith("PISL.")} - named == set()


def test_the_table_of_differences_is_complete():
    numbers = [cells[0] for cells in rows("docs/sd_reid.md", "## Described or released", 5)]
    assert numbers == ["B1", "B2", "B3", "B4", "B5", "B6", "B10", "B11", "B13"]


def test_the_table_of_protocols_is_what_is_registered():
    table = {cells[0]: cells[1:] for cells in rows("docs/datasets.md", "## Which names there are", 5)}
    assert [name for benchmark in BENCHMARKS for name in benchmark.protocols] == list(table)
    for benchmark in BENCHMARKS:
        alias_of = {protocol: alias for alias, protocol in benchmark.aliases.items()}
        for name, protocol in benchmark.protocols.items():
            _, alias, valid, _ = table[name]
            assert (alias, valid) == (alias_of.get(name, ""), str(protocol.valid_queries or "")), name


def test_the_trees_of_the_data_sets_are_those_of_the_messages():
    assert [b.name for b in BENCHMARKS if f"```\n{b.layout}\n```" not in TEXTS["docs/datasets.md"]] == []


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_published_counts_stand_on_the_page(benchmark):
    sizes = [benchmark.train_sizes, *(s for p in benchmark.protocols.values() for s in p.sizes.values())]
    numbers = {f"{n:,}" for size in sizes for n in (size.images, size.ids) if n}
    assert [n for n in sorted(numbers) if n not in TEXTS["docs/datasets.md"]] == []


@pytest.mark.parametrize(
    ("heading", "count", "names"),
    [("**Whose vector**", 3, [*TARGETS, OF_ALL]), ("**Guidance**", 2, GUIDANCE)],
    ids=["targets", "guidance"],
)
def test_choices_are_all_named(heading, count, names):
    assert sorted(name for name, *_ in rows("docs/sd_reid.md", heading, count)) == sorted(names)


def test_noise_kinds_are_all_named():
    with pytest.raises(OptionError) as error:
        NoiseSource("?", 0, (4, 8, 6))
    legal = re.search("Legal: (.*)", str(error.value))[1]
    table = rows("docs/sd_reid.md", "**Noise**", 3)
    assert sorted(kind for kind, *_ in table) == sorted(legal.rstrip(".").split(", "))


def test_registered_names_are_all_named():
    table = {key: set(names.split(", ")) for key, names in rows("docs/config.md", "## Registered names", 2)}
    assert table == {
        "MODEL.META_ARCHITECTURE": set(META_ARCH_REGISTRY),
        "MODEL.BACKBONE.NAME": set(BACKBONE_REGISTRY),
        "MODEL.BACKBONE.NORM, MODEL.HEADS.NORM": set(NORM_REGISTRY),
        "MODEL.HEADS.NAME": set(REID_HEADS_REGISTRY),
        "MODEL.HEADS.POOL_LAYER": set(POOLING_REGISTRY),
        "MODEL.HEADS.CLS_LAYER": set(SOFTMAX_REGISTRY),
        "MODEL.LOSSES.NAME": set(LOSS_REGISTRY),
        "DATASETS.NAMES, DATASETS.TESTS": set(DATASET_REGISTRY) - {"MyData"},  # the example of docs/datasets.md
        "DATALOADER.SAMPLER_TRAIN": set(SAMPLER_REGISTRY),
        "SOLVER.OPT": set(OPTIMIZER_REGISTRY),
        "SOLVER.SCHED": set(SCHEDULE_REGISTRY),
    }


def test_names_of_fast_reid_are_where_the_page_says():
    table = rows(MIGRATING, "## Where each name is", 2)
    named = {module: words.split(", ") for module, words in (cells[0].split(": ") for cells in table)}
    assert len(named) == 40 and sum(map(len, named.values())) > 110
    for module, words in named.items():
        found = importlib.import_module(module)
        for name in words:
            if not hasattr(found, name):
                importlib.import_module(f"{module}.{name}")


def test_every_refused_key_of_fast_reid_is_on_the_page():
    section = TEXTS[MIGRATING].split("## What is not there")[1].split("\n## ")[0]
    refused = [key for key in REASONS if not re.search("SDMODEL|VIEW_OREG|INNER_SUB|CAMERA_NUM", key)]
    assert [key for key in refused if key not in section and f"`{key.partition('.')[0]}`" not in section
            and f"{key.rpartition('.')[0]}.ENABLED" not in section] == []  # fmt: skip


def test_options_of_train_net_are_all_named():
    parser = runpy.run_path(str(ROOT / "tools/train_net.py"))["argument_parser"]()
    options = {option for action in parser._actions for option in action.option_strings}
    table = TEXTS["docs/usage.md"].split("| option | meaning |")[1].split("\n\n")[0]
    assert set(re.findall(r"--[a-z][a-z-]+", table)) == options - {"-h", "--help"}


def test_knobs_of_the_renderer_are_all_named():
    table = TEXTS["docs/rendered_benchmark.md"].split("| option | meaning |")[1].split("\n\n")[0]
    assert set(re.findall(r"--[a-z][a-z-]+", table)) == {f"--{f.name.replace('_', '-')}" for f in fields(RenderConfig)}


def test_domains_of_the_renderer_are_all_described():
    listed = [
        (name, about.removesuffix("; the default"))
        for name, about in rows("docs/rendered_benchmark.md", "## Domains", 2)
    ]
    assert listed == [(name, domain.about) for name, domain in DOMAINS.items()]


def test_every_key_of_diffusion_reid_is_in_its_page_with_its_default():
    known = dict(leaves(get_cfg()))
    table = {name: value for name, value, _ in rows("docs/diffusion_reid.md", "## Keys", 3)}
    expected = {name.removeprefix("DIFFPERSON."): known[name] for name in known if name.startswith("DIFFPERSON.")}
    expected["SOLVER.WORDS_LR_FACTOR"] = 1.0
    shown = {name: str(list(value) if isinstance(value, tuple) else value) or '""' for name, value in expected.items()}
    assert table == shown


def test_every_config_is_in_the_list():
    listed = re.findall(r"`(configs/[\w/-]+\.yml)`", TEXTS["docs/config.md"].split("## The files here")[1])
    assert sorted(listed) == sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.yml"))


def test_the_worked_example_of_the_metrics():
    assert "ranks 1, 2, 4, 8 and 20" in TEXTS["docs/metrics.md"] and "= 70 %" in TEXTS["docs/metrics.md"]
    people = [1 if rank in (1, 2, 4, 8, 20) else 2 for rank in range(1, 31)]
    _, ap, inp = evaluate_rank([[*range(30)]], [1], people, [0], [1] * 30)
    assert (ap[0], inp[0]) == (pytest.approx(0.70), pytest.approx(0.25))


def required(name: str) -> dict[str, SpecifierSet]:
    """Return the versions that a requirements file allows, by package."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement.specifier for requirement in found}


def test_constraints_are_of_the_requirements():
    lowest, tested = required("requirements.txt"), required("constraints.txt")
    assert tested.keys() == lowest.keys()
    versions = {name: str(tested[name]).removeprefix("==") for name in tested}
    assert [name for name in lowest if versions[name] not in lowest[name]] == []


def test_the_packages_that_were_asked_for_are_required():
    named = "torch torchvision timm diffusers yacs cython faiss-cpu tabulate termcolor".split()
    assert set(named) - required("requirements.txt").keys() == set()


def test_the_test_extra_has_what_the_tests_need():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extra = re.findall(r'"([\w-]+)>=', project.split("\ntest = [")[1].split("]")[0])
    assert set(extra) == required("requirements-dev.txt").keys() - {"cosmic-ray"}  # for benchmarks/mutants.py only


def imported_packages() -> set[str]:
    """Return the first names of all modules that the code or the tests import, at any place in a file."""
    found = set()
    for folder in ("fastreid", "tools", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found.add(node.module.split(".")[0])
    return found


def test_every_imported_package_is_required():
    """A fresh environment has all that the code and the tests import: nothing is there by chance."""
    distributions = packages_distributions()
    allowed = {name for file in ("requirements.txt", "requirements-dev.txt") for name in required(file)}
    allowed |= {"markupsafe", "tokenizers", "packaging"}  # what jinja2, transformers and pytest are made of
    own = sys.stdlib_module_names | {"partreid"} | {path.name for path in ROOT.iterdir()}
    own |= {path.stem for folder in ("tools", "benchmarks") for path in (ROOT / folder).glob("*.py")}
    foreign = imported_packages() - own
    assert {"torch", "webdataset", "faiss"} <= foreign
    missing = {name for name in foreign if not {*map(canonicalize_name, distributions.get(name, [name]))} & allowed}
    assert missing == set()


def test_every_file_of_pretrained_weights_has_a_row():
    named = re.findall(r"^\| `(.+?)/?` \|", TEXTS["pretrained/README.md"], re.MULTILINE)
    configs = [path.read_text(encoding="utf-8") for path in (ROOT / "configs").rglob("*.yml")]
    wanted = {path for text in configs for path in re.findall(r"pretrained/([\w./-]+)", text)}
    assert wanted and {path for path in wanted if not any(f"{path}/".startswith(f"{name}/") for name in named)} == set()


COUNTED = {"jx_vit": "vit_base_patch16_224"}
COUNTED |= {"resnet34-": "resnet34", "resnet50-": "resnet50", "resnet101_": "resnet101"}


@pytest.mark.parametrize(("name", "architecture"), COUNTED.items())
def test_the_table_of_pretrained_weights_counts_right(name, architecture):
    with torch.device("meta"):
        model = timm.create_model(architecture)
    (row,) = [line for line in TEXTS["pretrained/README.md"].splitlines() if line.startswith(f"| `{name}")]
    parameters = list(model.parameters())
    values = sum(parameter.numel() for parameter in parameters)
    assert f"{len(parameters)} " in row and f"{values:,} values" in row
    assert f"{round(values * 4e-6)} MB" in row


def test_the_table_counts_the_weights_of_clip_right():
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", [224, 224], "INPUT.SIZE_TEST", [224, 224]])
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_clip_backbone", "MODEL.BACKBONE.DEPTH", "base"])
    with torch.device("meta"):
        parameters = list(build_backbone(cfg).parameters())
    (row,) = [line for line in TEXTS["pretrained/README.md"].splitlines() if line.startswith("| `ViT-B-16.pt`")]
    assert f"{len(parameters)} tensors, {sum(parameter.numel() for parameter in parameters):,} values" in row


def test_the_folders_of_weights_and_runs_are_in_a_clone():
    ignored = "pretrained/a.pth pretrained/b/c.bin logs/a/b.json".split()
    kept = ["pretrained/README.md", "logs/README.md"]
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a clone")
    done = subprocess.run(["git", "check-ignore", *ignored, *kept], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ignored
