"""How close generated answers are to those of the data: exact match, BLEU-4 and ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qlora_fast.chat.answers import Answer
from qlora_fast.errors import ConfigError

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+")


def exact_match(answers: Sequence[Answer]) -> float:
    """Share of answers that equal the reference, white space at the ends aside."""
    return sum(a.answer.strip() == a.reference.strip() for a in answers) / max(len(answers), 1)


def bleu_and_rouge(answers: Sequence[Answer]) -> dict[str, float]:
    """``bleu_4``: corpus BLEU in 0 … 100 (sacrebleu; Chinese by characters); ``rouge_l``: mean F1 in 0 … 1 (rouge-score).

    Raises:
        ConfigError: the packages are not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ConfigError(
            f"--metrics needs the package {error.name}", hint="pip install 'qlora-fast[metrics]'"
        ) from error
    said, wanted = [a.answer for a in answers], [a.reference for a in answers]
    chinese = any(_CJK.search(text) for text in wanted)
    bleu = BLEU(tokenize="zh" if chinese else "13a").corpus_score(said, [wanted])
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    rouge = [scorer.score(a.reference, a.answer)["rougeL"].fmeasure for a in answers]
    return {"bleu_4": float(bleu.score), "rouge_l": sum(rouge) / max(len(rouge), 1)}


class _Words:
    """Words, and each Chinese or Japanese character by itself: rouge-score's own tokenizer drops all but ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return _WORDS.findall(text.lower())
