"""The numbered dialect, against classes that register their parts as the old ones did."""

import numpy as np
import pytest
from torch import nn

from auditor.artifact.dialects.ordinal import enumerate_modules
from auditor.artifact.family import SIGNATURES, expected_modules

SD1 = SIGNATURES[0]


class CrossAttention(nn.Module):
    def __init__(self, width, context):
        super().__init__()
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(context, width)
        self.to_v = nn.Linear(context, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout()])


class GEGLU(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, width * 8)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width), nn.Dropout(), nn.Linear(width * 4, width)])


class BasicTransformerBlock(nn.Module):
    def __init__(self, width, context):
        super().__init__()
        self.attn1 = CrossAttention(width, width)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context)


class ResnetBlock2D(nn.Module):
    def __init__(self, came, width, time):
        super().__init__()
        self.conv1 = nn.Conv2d(came, width, 3)
        self.time_emb_proj = nn.Linear(time, width)
        self.conv2 = nn.Conv2d(width, width, 3)
        if came != width:
            self.conv_shortcut = nn.Conv2d(came, width, 1)


class Transformer(nn.Module):
    def __init__(self, width, context):
        super().__init__()
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(width, context)])


class Part(nn.Module):
    def __init__(self, path, modules, context):
        super().__init__()
        attentions = sorted(
            {p.split(".transformer")[0] for p in modules if p.startswith(path) and ".attn1." in p}
        )
        resnets = sorted(
            {p.rpartition(".")[0] for p in modules if p.startswith(path) and p.endswith(".conv1")}
        )
        if attentions:
            self.attentions = nn.ModuleList(
                [Transformer(modules[f"{a}.norm"][0], context) for a in attentions]
            )
        self.resnets = nn.ModuleList(
            [
                ResnetBlock2D(
                    modules[f"{r}.conv1"][1], modules[f"{r}.conv1"][0], modules[f"{r}.time_emb_proj"][1]
                )
                for r in resnets
            ]
        )


class OldUNet(nn.Module):
    def __init__(self, modules, levels, context):
        super().__init__()
        self.down_blocks = nn.ModuleList([])
        self.mid_block = None
        self.up_blocks = nn.ModuleList([])
        for level in range(levels):
            self.down_blocks.append(Part(f"down_blocks.{level}.", modules, context))
        self.mid_block = Part("mid_block.", modules, context)
        for level in range(levels):
            self.up_blocks.append(Part(f"up_blocks.{level}.", modules, context))


def met_by_the_tool(model, owners, kinds):
    """The traversal: layers of some kinds below each module of some classes, in order of registration."""
    return [
        f"{outer}.{inner}"
        for outer, owner in model.named_modules()
        if type(owner).__name__ in owners
        for inner, layer in owner.named_modules()
        if isinstance(layer, kinds)
    ]


@pytest.mark.parametrize(
    "owners", [{"CrossAttention", "Attention", "GEGLU"}, {"CrossAttention", "ResnetBlock2D", "GEGLU"}]
)
def test_order_is_that_of_the_classes_of_the_time(owners):
    import torch

    modules = expected_modules(SD1, "unet")
    with torch.device("meta"):
        model = OldUNet(modules, 4, 768)
    expected = met_by_the_tool(model, owners, (nn.Linear, nn.Conv2d))
    assert list(enumerate_modules("unet", modules, owners)) == expected


def numbered(component, modules, order, rank=1):
    arrays = {}
    for number, path in enumerate(order):
        arrays[f"{component}:{number}:down"] = np.zeros((rank, *modules[path][1:]), np.float32)
        arrays[f"{component}:{number}:up"] = np.zeros((modules[path][0], rank), np.float32)
    return arrays


def test_shapes_in_another_order_are_left_unmatched(read):
    modules = expected_modules(SD1, "unet")
    order = list(enumerate_modules("unet", modules, ["CrossAttention", "GEGLU"]))
    text = expected_modules(SD1, "text_encoder")
    good = numbered("text_encoder", text, enumerate_modules("text_encoder", text, ["CLIPAttention"]))
    assert read({**numbered("unet", modules, order), **good}).unmatched == ()
    order[4], order[5] = order[5], order[4]
    adapter = read({**numbered("unet", modules, order), **good})
    assert len(adapter.unmatched) == 288
    assert list(adapter.components) == ["text_encoder"]
    assert "ordinal.order" in {p.code for p in adapter.problems}


def test_a_missing_half_of_a_pair_is_left_unmatched(read):
    text = expected_modules(SD1, "text_encoder")
    arrays = numbered("text_encoder", text, enumerate_modules("text_encoder", text, ["CLIPAttention"]))
    del arrays["text_encoder:3:up"]
    adapter = read(arrays)
    assert adapter.unmatched == ("text_encoder:3:down",)
    assert adapter.module_count == 47


def test_a_vector_without_the_embed_mark_is_left_unmatched(read, real_header):
    source = real_header("lora_disney")
    metadata = {k: v for k, v in source.metadata.items() if k != "<s2>"}
    adapter = read(source.arrays, metadata)
    assert adapter.unmatched == ("<s2>",)
    assert list(adapter.embeddings) == ["<s1>"]
