#!/usr/bin/env python
"""Chooses the weight of each view's generated feature (TEST.SDMODEL.VIEW_WEIGHTS) on people for validation.

choose_view_weights.py --config-file FILE --output OVERLAY.yml MODEL.WEIGHTS model_final.pth DATASETS.ROOT … KEY VALUE …

The weights are those with the highest mAP, averaged over DATASETS.TESTS. Use the file with --overlay.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from fastreid.config import CfgNode, ConfigError, check_ranges, get_cfg, imports_in, user_path
from fastreid.engine import DefaultTrainer, build_for_evaluation
from fastreid.engine.fingerprints import split_fingerprint
from fastreid.evaluation import MatchedProtocol, check_protocol, score
from fastreid.evaluation.scoring_options import Scoring
from fastreid.methods.sd_reid.fusion import Fusion
from fastreid.methods.sd_reid.stage2 import SDReIDStage2
from fastreid.methods.sd_reid.view_weights import Weights, choose_view_weights, reweighted
from fastreid.modeling.amp import evaluation_autocast
from fastreid.retrieval.extraction import FeatureStore
from fastreid.utils.errors import reported_as
from fastreid.utils.files import atomic_write, check_output
from fastreid.utils.lock import path_lock
from fastreid.utils.manifest import TRAINING, read_manifest
from fastreid.utils.precision import set_float32_precision
from fastreid.utils.user_code import import_file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", type=user_path, required=True, metavar="FILE")
    add("--overlay", type=user_path, action="append", default=[], metavar="FILE", help="as of train_net.py")
    add("--output", type=user_path, required=True, metavar="FILE", help="the overlay that is written")
    add("options", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    with reported_as("choose_view_weights"):
        args = _parser().parse_args(argv)
        files = list(map(str, (args.config_file, *args.overlay)))
        for file in imports_in(files, args.options):  # they may add keys
            import_file(file)
        cfg = get_cfg()
        for file in files:
            cfg.merge_from_file(file)
        cfg.merge_from_list(args.options)
        check_ranges(cfg)
        cfg.freeze()
        check_output(args.output, (*files, cfg.MODEL.WEIGHTS))
        set_float32_precision(cfg.MODEL.FLOAT32)
        _choose(cfg, args.output)


def _choose(cfg: CfgNode, output: Path) -> None:
    fusion = cfg.TEST.SDMODEL.FUSION, tuple(cfg.TEST.SDMODEL.PARTS)
    if fusion[0] != "weighted" or fusion[1][-1:] != ("generated",) or len(fusion[1]) < 2:
        raise ConfigError(
            'TEST.SDMODEL.FUSION must be "weighted" and TEST.SDMODEL.PARTS must end with "generated" after another '
            f"part, got {fusion[0]} and {list(fusion[1])}"
        )
    protocols = [check_protocol(dataset) for dataset in DefaultTrainer.build_test_datasets(cfg)]
    _refuse_test_people(cfg, protocols)
    model = build_for_evaluation(cfg)
    if not isinstance(model, SDReIDStage2):
        raise ConfigError(f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, which generates no views")
    num_views = model.num_views
    model.fusion = Fusion("weighted", 1.0, fusion[1], cfg.TEST.SDMODEL.LATENT_WEIGHT, (1.0,) * num_views)
    store = FeatureStore()
    images = {image.path: image for p in protocols for image in (*p.query, *p.gallery)}
    loader = DefaultTrainer.build_feature_loader(cfg, list(images.values()))
    store.extract(model, loader, evaluation_autocast(cfg), flip=cfg.TEST.FLIP.ENABLED)
    protocols = [protocol.without(store.skipped) for protocol in protocols]
    for protocol in protocols:
        protocol.check()
    measure = functools.partial(_mean_ap, store, protocols, Scoring.from_config(cfg), model.person.feature_dim)
    weights = choose_view_weights(num_views, measure)
    before = tuple(cfg.TEST.SDMODEL.VIEW_WEIGHTS) or (cfg.TEST.SDMODEL.GENERATED_WEIGHT / num_views,) * num_views
    names = ", ".join(protocol.name for protocol in protocols)
    summary = f"mAP {measure(weights):.2f} on {names}; with {list(before)}: {measure(before):.2f}"
    with path_lock(output), atomic_write(output) as file:
        file.write(f"# Chosen by tools/choose_view_weights.py on people for validation: {summary}.\n")
        file.write(f"TEST:\n  SDMODEL:\n    VIEW_WEIGHTS: {list(weights)}\n")
    print(f"TEST.SDMODEL.VIEW_WEIGHTS {list(weights)}: {summary}\nwritten to {output}")


def _refuse_test_people(cfg: CfgNode, protocols: Sequence[MatchedProtocol]) -> None:
    """Check that the people are not those on which the training run of the checkpoint reports its figures.

    Raises:
        ConfigError: they are, by the manifest beside the checkpoint.
    """
    manifest = read_manifest(Path(cfg.MODEL.WEIGHTS).expanduser().parent / TRAINING) or {}
    reported = [parts.get("query") for parts in manifest.get("datasets", {}).values()]
    for protocol in protocols:
        if split_fingerprint(protocol.query) in reported:
            raise ConfigError(
                f"the queries of {protocol.name} in DATASETS.ROOT are test people of the run of MODEL.WEIGHTS: choose "
                "weights on other people"
            )


def _mean_ap(
    store: FeatureStore, protocols: Sequence[MatchedProtocol], scoring: Scoring, feature_dim: int, weights: Weights
) -> float:
    """The mean of mAP over the protocols, in percent."""
    total = 0.0
    for protocol in protocols:
        query, gallery = protocol.query, protocol.gallery
        q_rows, g_rows = (reweighted(store.select(side), weights, feature_dim) for side in (query, gallery))
        result = score(q_rows, g_rows, query, gallery, scoring, matches=protocol.matches)
        assert result is not None  # of this process alone
        total += result.metrics["mAP"]
    return total / len(protocols)


if __name__ == "__main__":
    main()
