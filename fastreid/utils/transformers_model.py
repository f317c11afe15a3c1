"""Models of transformers from local folders."""

from __future__ import annotations

from typing import Any

from fastreid.utils.optional import hide_loading_bars

_SHOWN = 4


def load_transformers_model(kind: Any, folder: Any, **options: Any) -> Any:
    """Return a model of transformers whose weights are all in its files.

    transformers draws random values for weights that are not there, and logs a table. Here they are an error. Files may
    have more than the model, such as the text encoder of CLIP beside its image encoder.

    Args:
        kind: the class of transformers.
        folder: the folder.
        options: further arguments of `from_pretrained`.

    Raises:
        ValueError: weights are missing, or have another shape. The caller says which folder it is.
        Exception: transformers raises any error for missing or damaged files.
    """
    from transformers.utils import logging as messages

    hide_loading_bars()
    verbosity = messages.get_verbosity()
    messages.set_verbosity_error()
    try:
        model, info = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    finally:
        messages.set_verbosity(verbosity)
    # Tied weights are parameters under one of their names only.
    own = dict(model.named_parameters()) | {name: x for name, x in model.named_buffers() if x.is_floating_point()}
    absent = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    if lacking := sorted(absent & own.keys()):
        raise ValueError(
            f"its files lack {len(lacking)} of {len(own)} tensors of {type(model).__name__}, such as "
            f"{', '.join(lacking[:_SHOWN])}"
        )
    return model
