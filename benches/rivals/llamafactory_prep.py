"""LLaMA-Factory's own data path, up to the dataset that its trainer is given. Runs in LLaMA-Factory's environment.

python llamafactory_prep.py DATA.json TOKENIZER_FOLDER SCRATCH {neat_packing,none}
"""

from __future__ import annotations

import json
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


def main(data: Path, tokenizer: str, scratch: Path, mode: str) -> None:
    os.environ.update(DISABLE_VERSION_CHECK="1", HF_HUB_OFFLINE="1", HF_HOME=str(scratch / "hf"))
    (scratch / "dataset_info.json").write_text(json.dumps({"it": {"file_name": data.name}}))
    (scratch / data.name).symlink_to(data.resolve())

    if find_spec("torchaudio") is None:
        # Sound is no part of this; an empty module only makes the start quicker.
        stand_in = sys.modules["torchaudio"] = ModuleType("torchaudio")
        stand_in.__spec__ = ModuleSpec("torchaudio", None)

    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    arguments = {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "model_name_or_path": tokenizer,
        "dataset": "it",
        "dataset_dir": str(scratch),
        "template": "qwen3",
        "cutoff_len": 2048,
        "preprocessing_num_workers": 1,
        "overwrite_cache": True,
        "output_dir": str(scratch / "out"),
        "report_to": "none",
        "packing": mode != "none",
        "neat_packing": mode == "neat_packing",
    }
    model_args, data_args, training_args, _, _ = get_train_args(arguments)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    made = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)
    rows = made["train_dataset"]
    print(json.dumps({"rows": len(rows)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
