"""The loop: what it logs, when it stops, and what it refuses to do."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GraniteConfig, GraniteForCausalLM

import tiny
from prepared import random_dataset
from qlora_fast.data.batch import Row, packed_row, padded_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.errors import TrainingError
from qlora_fast.model.attention import NAME
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.varlen import AttentionPath
from qlora_fast.train import checkpoint
from qlora_fast.train import forward as forward_module
from qlora_fast.train.evaluate import EvalOptions, evaluate, sample_scores
from qlora_fast.train.forward import Forward
from qlora_fast.train.isolation import check_isolation
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from qlora_fast.train.trainer import Interrupted, Trainer
from tiny_run import CPU, losses, tiny_run, weights_digest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("train") / "p", 40, vocab=12, longest=40)


def test_the_logged_loss_is_the_mean_over_the_supervised_tokens_since_the_last_line(data: PreparedDataset) -> None:
    each, some = tiny_run(data, updates=10), tiny_run(data, updates=10, logging_steps=4)
    each.run()
    some.run()
    assert [entry["step"] for entry in some.progress.log_history] == [4, 8, 10]
    plan = each._plan_of_epoch(0)
    weights = plan.supervised[:4]
    assert losses(some)[0] == pytest.approx(np.average(losses(each)[:4], weights=weights), rel=1e-6)
    assert some.progress.log_history[-1]["epoch"] == 2.0
    assert some.progress.log_history[0]["learning_rate"] == each.schedule.lr(4)


def test_the_same_seed_gives_the_same_bits_and_logging_does_not_matter(data: PreparedDataset) -> None:
    digests = set()
    for logging_steps in (1, 5, 12):
        run = tiny_run(data, dropout=0.1, logging_steps=logging_steps)
        run.run()
        digests.add(weights_digest(run))
    assert len(digests) == 1


def test_gradient_checkpointing_changes_nothing_but_memory(data: PreparedDataset) -> None:
    plain = tiny_run(data, model=add_lora(tiny.qwen3(), LoraSpec(4, 8), seed=0))
    saving = tiny_run(data, model=add_lora(tiny.qwen3(), LoraSpec(4, 8), seed=0, checkpointing=True))
    plain.run()
    saving.run()
    assert losses(saving) == pytest.approx(losses(plain), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_update_and_samples(data: PreparedDataset) -> None:
    def poison(trainer: Trainer) -> None:
        if trainer.progress.update == 4:
            with torch.no_grad():
                trainer.forward.model.get_input_embeddings().weight[3] = torch.inf  # type: ignore[operator]
            poison.before = weights_digest(trainer)  # type: ignore[attr-defined]

    trainer = tiny_run(data, on_update=poison)
    with pytest.raises(TrainingError, match=r"not finite in update 5 \(samples \[\d+") as caught:
        trainer.run()
    assert "data.json:" in str(caught.value.hint)
    assert weights_digest(trainer) == poison.before, "the update was applied"  # type: ignore[attr-defined]
    assert all(math.isfinite(loss) for loss in losses(trainer))


def test_an_update_that_is_not_finite_changes_neither_weights_nor_moments() -> None:
    adapter = Adapter(tiny.adapted(tiny.qwen3()))
    optimizer = AdamW(adapter, AdamWOptions(weight_decay=0.1))
    adapter.gradient.fill_(0.1)
    optimizer.step(1e-3)
    before = {**optimizer.tensors(), "weights": adapter.weights.clone()}
    adapter.gradient[5] = torch.nan
    assert not optimizer.step(1e-3).isfinite()
    after = {**optimizer.tensors(), "weights": adapter.weights}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(adapter.gradient, torch.zeros_like(adapter.gradient))


def test_the_update_is_that_of_torchs_adamw_over_separate_parameters() -> None:
    adapter = Adapter(tiny.adapted(tiny.qwen3()))
    separate = [torch.nn.Parameter(p.detach().clone()) for p in adapter.parameters]
    reference = torch.optim.AdamW(separate, lr=1e-2, weight_decay=0.1, fused=True)
    optimizer = AdamW(adapter, AdamWOptions(weight_decay=0.1, max_grad_norm=0.5))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter, twin in zip(adapter.parameters, separate, strict=True):
            twin.grad = torch.randn(twin.shape, generator=generator)
            assert parameter.grad is not None
            parameter.grad.copy_(twin.grad)
        expected = torch.nn.utils.clip_grad_norm_(separate, 0.5)
        reference.step()
        assert optimizer.step(1e-2).item() == pytest.approx(expected.item(), rel=1e-6)
    for parameter, twin in zip(adapter.parameters, separate, strict=True):
        assert torch.allclose(parameter, twin, rtol=1e-6, atol=1e-8)


def test_a_packed_row_is_checked_before_the_first_update(data: PreparedDataset) -> None:
    forward = Forward(tiny.adapted(tiny.qwen3()), CPU)
    assert check_isolation(forward, data, packed_row(data, range(6))) < 1e-5


def test_of_a_row_of_many_samples_eight_are_run_alone_with_both_ends(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Forward(tiny.adapted(tiny.qwen3()), CPU)
    alone: list[int] = []
    plain = Forward.reference_losses

    def count(self: Forward, row: Row) -> Tensor:
        alone.extend(row.sample_ids.tolist())
        return plain(self, row)

    monkeypatch.setattr(Forward, "reference_losses", count)
    assert check_isolation(forward, data, packed_row(data, range(40))) < 1e-5
    assert len(alone) == 8
    assert alone == sorted(set(alone))
    assert (alone[0], alone[-1]) == (0, 39)


def test_a_model_whose_packed_samples_see_each_other_is_stopped(data: PreparedDataset) -> None:
    # transformers' sdpa does not know our borders; with a mask of ones it would not see the positions either.
    model = tiny.adapted(tiny.qwen3(attention="sdpa"))
    decoder = model.get_base_model().get_decoder()  # type: ignore[operator]
    plain = decoder.forward
    decoder.forward = lambda input_ids, **more: plain(input_ids, use_cache=False)
    with pytest.raises(TrainingError, match="influence each other"):
        tiny_run(data, model=model).run()


def granite() -> torch.nn.Module:
    config = GraniteConfig(
        vocab_size=tiny.VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, logits_scaling=3.0,
    )  # fmt: skip
    config._attn_implementation = NAME
    torch.manual_seed(0)
    return GraniteForCausalLM(config).requires_grad_(False)


def test_a_model_that_scales_its_logits_goes_through_its_own_head(data: PreparedDataset) -> None:
    forward = Forward(tiny.adapted(granite()), CPU)
    assert not forward.plain_head
    assert Forward(tiny.adapted(tiny.qwen3()), CPU).plain_head
    packed, padded = packed_row(data, range(4)), padded_row(data, range(4))
    check_isolation(forward, data, packed)
    assert forward.loss_sum(packed).item() == pytest.approx(forward.loss_sum(padded).item(), rel=1e-5)


def test_an_adapter_on_the_head_is_trained_too(data: PreparedDataset) -> None:
    model = add_lora(tiny.llama(), LoraSpec(4, 8, target=["q_proj", "lm_head"]), seed=0)
    forward = Forward(model, CPU)
    assert not forward.plain_head
    trainer = tiny_run(data, model=model, updates=30, lr=1e-2)
    trainer.run()
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.5
    assert all(part.abs().sum() > 0 for name, part in trainer.adapter.tensors().items() if "lm_head.lora_B" in name)


def test_the_attention_that_is_named_is_the_one_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(*_: object) -> Tensor:
        raise AssertionError("it is not called here")

    monkeypatch.setattr(forward_module, "path_for", lambda *_: AttentionPath(kernel, "tried on the device"))
    plain, dropping = (Forward(tiny.llama(attention_dropout=share), CPU) for share in (0.0, 0.1))
    assert plain.attention(packed=True) == "torch.nn.attention.varlen (tried on the device)"
    assert plain.attends_whole_rows()
    assert "padded" in plain.attention(packed=False)
    # Granite has such: the kernel knows no dropout, so packed samples are attended one by one, and no row can be replayed.
    assert "the model has attention_dropout: 0.1" in dropping.attention(packed=True)
    assert not dropping.attends_whole_rows()


def test_evaluation_does_not_depend_on_how_rows_are_cut(data: PreparedDataset) -> None:
    forward = Forward(tiny.adapted(tiny.qwen3(), dropout=0.5), CPU)
    indices = np.array([7, 3, 21, 0, 38, 5])
    ways = [EvalOptions(b, r, p, True) for b in (1, 4) for r in (40, 200) for p in (False, True)]
    results = [evaluate(forward, data, indices, way) for way in ways]
    for key in ("eval_loss", "eval_accuracy", "perplexity", "eval_tokens"):
        assert [r[key] for r in results] == pytest.approx([results[0][key]] * len(results), rel=1e-5)
    assert forward.model.training, "evaluation leaves the model as it was"
    total, _ = sample_scores(forward, data, indices, ways[0])
    alone = [sample_scores(forward, data, np.array([i]), ways[0])[0][0] for i in indices]
    assert total == pytest.approx(alone, rel=1e-5)


def test_eval_loss_hf_is_the_weighted_mean_of_batch_means(data: PreparedDataset) -> None:
    forward = Forward(tiny.adapted(tiny.qwen3()), CPU)
    indices = np.arange(10)
    result = evaluate(forward, data, indices, EvalOptions(4, 100, True, False))
    total, _ = sample_scores(forward, data, indices, EvalOptions(4, 100, True, False))
    tokens = data.supervised[indices].astype(float)
    batches = [slice(0, 4), slice(4, 8), slice(8, 10)]
    repeated = [total[b].sum() / tokens[b].sum() for b in batches for _ in range(len(tokens[b]))]
    assert result["eval_loss_hf"] == pytest.approx(np.mean(repeated), rel=1e-9)
    assert "eval_accuracy" not in result


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_behind_the_update_with_a_checkpoint(
    data: PreparedDataset, tmp_path: Path, number: signal.Signals
) -> None:
    def interrupt(trainer: Trainer) -> None:
        if trainer.progress.update == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted):
        tiny_run(data, tmp_path, save_every=100, dropout=0.1, on_update=interrupt).run()
    assert signal.getsignal(number) is before
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["checkpoint-4"]
    resumed = tiny_run(data, tmp_path, dropout=0.1)
    resumed.run()
    whole = tiny_run(data, dropout=0.1)
    whole.run()
    assert weights_digest(resumed) == weights_digest(whole)
    assert losses(resumed) == losses(whole)


def test_the_second_signal_is_obeyed_at_once(data: PreparedDataset) -> None:
    def impatient(trainer: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tiny_run(data, on_update=impatient).run()


def test_bf16_trains_with_fp32_weights_and_gradients(data: PreparedDataset) -> None:
    exact, half = (
        tiny_run(data, updates=30),
        tiny_run(data, updates=30, model=tiny.adapted(tiny.qwen3().bfloat16(), warm=False)),
    )
    assert half.adapter.weights.dtype == half.adapter.gradient.dtype == torch.float32
    assert all(p.dtype == torch.bfloat16 for p in half.adapter.parameters)
    exact.run()
    half.run()
    assert losses(half)[-1] == pytest.approx(losses(exact)[-1], rel=0.05)
    assert losses(half)[-1] < losses(half)[0] - 0.5
