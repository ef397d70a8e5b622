"""TRL's own data path: prompt and completion through SFTTrainer, packed by best-fit decreasing.

python trl_prep.py DATA.json TOKENIZER_FOLDER SCRATCH bfd
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(data: Path, tokenizer_folder: str, scratch: Path) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=str(scratch / "hf"))

    from datasets import load_dataset
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
    from trl import SFTConfig, SFTTrainer

    def turns(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
        question = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
        return {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }

    rows = load_dataset("json", data_files=str(data), split="train", cache_dir=str(scratch / "cache"))
    rows = rows.map(turns, remove_columns=rows.column_names)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    # The trainer wants a model; the smallest there is, since only its data is of interest.
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, **shape))
    arguments = SFTConfig(
        output_dir=str(scratch / "out"),
        max_length=2048,
        packing=True,
        packing_strategy="bfd",
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    print(json.dumps({"rows": len(trainer.train_dataset)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
