"""The entry function that timm builds a Spikformer with; imported once both packages are (see ``hook``).

The network itself is imported when one is built, so that ``import timm`` takes no longer than without this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

if TYPE_CHECKING:
    from spikesearch.export.timm.network import TimmSpikformer

default_cfgs = generate_default_cfgs(
    {
        "spikesearch_spikformer": {
            "url": "",
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": (0.4914, 0.4822, 0.4465),  # CIFAR-10
            "std": (0.2470, 0.2435, 0.2616),
            "first_conv": "stem.stages.0.conv",
            "classifier": "head",
        }
    }
)


@register_model
def spikesearch_spikformer(pretrained: bool = False, **kwargs: Any) -> TimmSpikformer:
    """Build a :class:`~spikesearch.export.timm.network.TimmSpikformer`; by default Spikformer-4-384.

    Args:
        pretrained: Load the weights of the folder that ``timm.create_model("local-dir:FOLDER")`` was given.
        **kwargs: ``arch`` (an :class:`~spikesearch.Architecture`, its dictionary or that as JSON text),
            ``num_classes``, ``in_chans``, ``img_size``, ``pool_stages``, ``residual``, and timm's own.

    Raises:
        ExportError: If ``features_only`` is asked for: its features are spikes in time, not maps.
    """
    from spikesearch.errors import ExportError
    from spikesearch.export.timm.network import TimmSpikformer

    if kwargs.get("features_only"):
        raise ExportError("`features_only` must be False: a Spikformer has no pyramid of feature maps.")
    net: TimmSpikformer = build_model_with_cfg(TimmSpikformer, "spikesearch_spikformer", pretrained, **kwargs)
    return net
