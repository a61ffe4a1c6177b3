"""Modules of SD3 and Flux as the code of their makers names them, with the shapes of their weights."""


def original_flux(doubles=19, singles=38, width=3072, guidance=True, head=128):
    modules = {
        "img_in": (width, 64), "txt_in": (width, 4096), "time_in.in_layer": (width, 256),
        "time_in.out_layer": (width, width), "vector_in.in_layer": (width, 768),
        "vector_in.out_layer": (width, width), "final_layer.linear": (64, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }  # fmt: skip
    if guidance:
        modules |= {"guidance_in.in_layer": (width, 256), "guidance_in.out_layer": (width, width)}
    for block in (f"double_blocks.{i}.{stream}" for i in range(doubles) for stream in ("img", "txt")):
        modules |= {
            f"{block}_mod.lin": (6 * width, width), f"{block}_attn.qkv": (3 * width, width),
            f"{block}_attn.norm.query_norm": (head,), f"{block}_attn.norm.key_norm": (head,),
            f"{block}_attn.proj": (width, width), f"{block}_mlp.0": (4 * width, width),
            f"{block}_mlp.2": (width, 4 * width),
        }  # fmt: skip
    for block in (f"single_blocks.{i}" for i in range(singles)):
        modules |= {
            f"{block}.modulation.lin": (3 * width, width), f"{block}.linear1": (7 * width, width),
            f"{block}.linear2": (width, 5 * width), f"{block}.norm.query_norm": (head,),
            f"{block}.norm.key_norm": (head,),
        }  # fmt: skip
    return modules


def original_sd3(layers=24, dual=0, width=1536, normed=False, head=64):
    modules = {
        "x_embedder.proj": (width, 16, 2, 2), "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width), "y_embedder.mlp.0": (width, 2048),
        "y_embedder.mlp.2": (width, width), "context_embedder": (width, 4096),
        "final_layer.linear": (64, width), "final_layer.adaLN_modulation.1": (2 * width, width),
    }  # fmt: skip
    for index in range(layers):
        for stream in ("x_block", "context_block"):
            block = f"joint_blocks.{index}.{stream}"
            image = stream == "x_block"
            whole = image or index < layers - 1
            parts = 9 if image and index < dual else 6 if whole else 2
            modules[f"{block}.adaLN_modulation.1"] = (parts * width, width)
            attentions = ("attn", "attn2") if image and index < dual else ("attn",)
            for attention in (f"{block}.{name}" for name in attentions):
                modules[f"{attention}.qkv"] = (3 * width, width)
                modules |= {f"{attention}.ln_{name}": (head,) for name in ("q", "k") if normed}
                modules |= {f"{attention}.proj": (width, width)} if whole else {}
            if whole:
                modules[f"{block}.mlp.fc1"] = (4 * width, width)
                modules[f"{block}.mlp.fc2"] = (width, 4 * width)
    return modules
