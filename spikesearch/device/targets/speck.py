"""Speck, SynSense's chip of nine convolution cores for event cameras (sinabs' documentation, "Speck", 2025)."""

from __future__ import annotations

from collections.abc import Iterator

from spikesearch.device.targets import DeviceTarget, Plan, register

CHANNELS, INPUT_SIDE, MAP_SIDE, CLASSES = 1024, 128, 64, 15
STRIDES = (1, 2, 4, 8)
FAN_OUT = 2  # layers that a core may send its spikes to


def problems(plan: Plan) -> Iterator[str]:
    """Yield what the cores lack: products of spikes, leaks, many channels, and streams that many layers read."""
    space, model = plan.space, plan.model
    places = [name for lists in space.stage_lists for name in lists["mixers"]]
    lacking = [name for name in dict.fromkeys(places) if name != "conv"]
    if lacking:
        yield (
            f"`mixers` has {', '.join(lacking)}: the cores convolve all channels with all, and know no product of "
            "spikes and no convolution of every channel by itself. Leave `conv` alone."
        )
    if max(space.time_steps) > 1:
        yield (
            f"`space.time_steps` has {max(space.time_steps)}: the neurons of the chip do not leak, and ours do from "
            "the second time step on. Choose 1."
        )
    if model["image_size"] > INPUT_SIDE:
        yield f"The samples are {model['image_size']} pixels wide: the chip takes {INPUT_SIDE}. Set `data.downsample`."
    elif -(-model["image_size"] // model.get("stem_stride", 1)) > MAP_SIDE:
        yield (
            f"The first layer has {-(-model['image_size'] // model.get('stem_stride', 1))} positions each way: a core "
            f"has {MAP_SIDE}. Set a larger `stem_stride`."
        )
    if model["num_classes"] > CLASSES:
        yield f"There are {model['num_classes']} classes: the chip reads out {CLASSES}."
    if model.get("stem", "sps") != "conv" or model.get("stem_stride", 1) not in STRIDES:
        yield (
            "`model.stem` must be `conv` with a `stem_stride` of 1, 2, 4 or 8: the cores take sums of spikes over a "
            "window, not their maximum."
        )
    widest = max(space.embed_dims)
    if widest > CHANNELS:
        yield f"`space.embed_dims` has {widest}: a core has {CHANNELS} channels."
    layers = len(space.stage_lists) + sum(max(lists["depths"]) for lists in space.stage_lists) - 1
    if any(ratio for lists in space.stage_lists for ratio in lists["mlp_ratios"]):
        yield "`mlp_ratios` has more than 0: every branch of a block is one more layer that reads the stream. Choose 0."
    if layers > FAN_OUT - 1:
        yield (
            f"The stream of currents is read by up to {layers} layers and the head, and a core sends its spikes to "
            f"{FAN_OUT} others: the chip holds one stage of one block. Leave out `stages`, and choose `depths: [1]`."
        )


register(DeviceTarget("speck", problems))
