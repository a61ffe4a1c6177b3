"""The shipped tokenizer where there is one, else one trained in the temporary folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from auditor.world.embedded import embedded_folder


@pytest.fixture(scope="session")
def world_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import CLIPTokenizer

    shipped: Path = embedded_folder() / "pipeline" / "tokenizer"
    if not shipped.is_dir():
        from auditor.world.train.tokenizer import train_tokenizer

        shipped = tmp_path_factory.mktemp("tokenizer")
        train_tokenizer(shipped)
    return CLIPTokenizer.from_pretrained(shipped, local_files_only=True)
