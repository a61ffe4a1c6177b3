"""Pictures and comparisons that the tests of fine-tuning methods share."""

import numpy as np
import pytest
import torch
from PIL import Image


def weights(base):
    return {f"{n}.{k}": v.clone() for n, module in base.modules.items() for k, v in module.state_dict().items()}


@pytest.fixture
def unchanged():
    """Called with a base before, gives a check for afterwards: same objects, same bits, no gradients, no hooks."""

    def before(base):
        modules, was, layout = dict(base.modules), weights(base), {n: str(m) for n, m in base.modules.items()}

        def check():
            assert all(base.modules[name] is module for name, module in modules.items())
            now = weights(base)
            assert now.keys() == was.keys()
            assert all(torch.equal(value, was[key]) for key, value in now.items())
            assert {n: str(m) for n, m in base.modules.items()} == layout
            for module in base.modules.values():
                assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
            # The library puts hooks of its own on text encoders when they first run.
            tables = [encoder.get_input_embeddings() for encoder in base.text_encoders.values()]
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*base.unet.modules(), *tables])

        return check

    return before


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder_of(tmp_path):
    """Makes a folder of random pictures."""

    def make(name, count=2, seed=0):
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(seed)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (16, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        return folder

    return make
