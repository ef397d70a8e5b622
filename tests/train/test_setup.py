"""What a run needs is made once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from parameter_run import maker
from qlora_fast.data import dataset
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import resolve
from qlora_fast.train import base, setup
from tiny_folder import ALPACA


def test_each_dataset_is_opened_once_and_the_machine_and_the_model_are_asked_once(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def count(module: object, name: str) -> None:
        real = getattr(module, name)

        def counted(*args: object, **more: object) -> object:
            calls[name] += 1
            return real(*args, **more)

        monkeypatch.setattr(module, name, counted)

    count(dataset, "open_prepared")
    count(resolve, "model_path")
    count(setup, "pick_device")
    count(base, "load_base")
    maker(model_dir, tmp_path)(max_steps=2, eval_dataset=ALPACA, val_size=0, eval_strategy="steps", eval_steps=1)
    assert calls == {"open_prepared": 2, "model_path": 1, "pick_device": 1, "load_base": 1}


@pytest.mark.parametrize("verify", ["full", "off"])
def test_a_run_refuses_token_ids_without_an_embedding(
    verify: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "_embeddings", lambda _: 400)
    monkeypatch.setattr(resolve, "largest_id", lambda _: 399)
    with pytest.raises(
        ArtifactError, match=r"shard-.*has the token id [\d,]+ in the sample of .*alpaca_en.json:\d+; .*400"
    ):
        maker(model_dir, tmp_path)(max_steps=1, verify=verify)
