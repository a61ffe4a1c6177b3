"""Small pipelines, made once a session and only where a test asks for one."""

import pytest


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory):
    from tiny_models import FAMILIES, make_pipeline

    root = tmp_path_factory.mktemp("tiny")
    made = {}

    def folder(family):
        assert family in FAMILIES
        if family not in made:
            made[family] = make_pipeline(family, root / family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_folders):
    """Loaded components by family, shared: tests leave them as they were."""
    import torch

    from auditor.pipeline.components import load_components

    loaded = {}

    def base(family):
        if family not in loaded:
            loaded[family] = load_components(tiny_folders(family), torch.device("cpu"), torch.float32)
        return loaded[family]

    return base
