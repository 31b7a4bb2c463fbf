"""The norms of a model that can be frozen, or folded away, and the effect on loss and speed.

A frozen norm has one scale and shift per feature for all tokens, which the Linears that read it can do in
its place. In `demo`, as in BERT, each norm feeds the residual stream too, so none can go. In a model with
its norms before the blocks (GPT-2, Llama, ViT) they can: a small one is trained here, its norms are
inspected, frozen one after the other while the loss allows it, folded, saved, and loaded again.

Run: python examples/freeze_layernorm.py [--quick]   (a minute or two; --quick: seconds, and it learns little)
"""

import statistics
import sys
import tempfile
import time
from itertools import takewhile
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers

import normscope
from normscope.models.loading import load

QUICK = "--quick" in sys.argv
MOST = 1.01  # the loss may grow to so much of what it was
FROZEN = "batchnorm-fitted"


def sentences() -> list[str]:
    """Return some English that every Python carries, each sentence once, in no order."""
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    found = sorted({s.strip() + "." for s in text.split(". ") if 20 < len(s) < 400}, key=lambda s: s[::-1])
    return found[::20] if QUICK else found


def trained(texts: list[str], tokenizer: Any) -> Any:
    """Return a small GPT-2 that has learned from the texts, with an output layer of its own."""
    torch.manual_seed(0)
    size = 32 if QUICK else 128
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=size, n_layer=2 if QUICK else 4, n_head=4, n_positions=64,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model: Any = transformers.GPT2LMHeadModel(config)
    rule = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(20 if QUICK else 240):
        rows = [texts[i] for i in torch.randint(len(texts), (32,))]
        batch = tokenizer(rows, padding=True, truncation=True, max_length=48, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        rule.zero_grad()
        loss.backward()
        rule.step()
        if step == 0:
            print(f"training: loss {loss.item():.2f}", end=" ", file=sys.stderr)
    print(f"-> {loss.item():.2f}", file=sys.stderr)
    return model.eval()


def speed(one: Any, other: Any, inputs: dict[str, torch.Tensor]) -> float:
    """Return how much faster the other model is: the median of paired runs, each second pair turned round."""
    ratios = []
    with torch.no_grad():
        for pair in range(10 if QUICK else 60):
            seconds = {}
            for model in (one, other) if pair % 2 else (other, one):
                begun = time.perf_counter()
                model(**inputs)
                seconds[model] = time.perf_counter() - begun
            ratios.append(seconds[one] / seconds[other])
    return statistics.median(ratios)


def main() -> None:
    """Freeze and fold what can be in two models; print the answer, then what it rests on."""
    texts, demo = sentences(), load("demo")
    few = texts[:: max(1, len(texts) // (24 if QUICK else 300))]
    options: dict[str, Any] = {"batching": normscope.Batching(max_length=48)}
    folding, growing = normscope.Swapping(FROZEN, fold=True), normscope.Swapping(FROZEN, cumulative=True)
    post: Any = normscope.swap(demo, few, swapping=folding, layers=["*.5.*"] if QUICK else (), **options)

    tokenizer: Any = demo.tokenizer
    tokenizer = tokenizer.train_new_from_iterator(texts, 1000, show_progress=False)
    model = trained([text for text in texts if text not in set(few)], tokenizer)
    options["tokenizer"] = tokenizer
    report: Any = normscope.inspect(model, few, **options)
    frozen: Any = normscope.swap(model, few, swapping=growing, **options)
    before, steps = frozen.baseline.loss.mean, frozen.cumulative
    names = [s.name for s in takewhile(lambda step: step.effect.loss.mean < MOST * before, steps)]

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        kept: Any = normscope.swap(model, few, layers=names, swapping=folding, save=folder, **options)
        folded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
        normscope.read_fold(folder).apply(folded.eval())
    batch = tokenizer(few[:16], padding=True, truncation=True, max_length=48, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    fold, why = kept.fold, post.fold.layers[0]

    print(f"demo: {len(post.fold.folded)} of {len(post.layers)} norms can be folded")
    print(
        f"GPT-2: {len(fold.folded)} of {len(steps)} norms frozen and folded: loss {before:.3f} -> "
        f"{fold.effect.loss.mean:.3f}, {speed(model, folded, inputs):.2f}x as fast; "
        f"folded is frozen up to {fold.relative_difference:.0e}"
    )
    print(f"\nnot in demo: {why.name}: {why.reason}")
    print(f"\n{'norms, the most tolerant first':32} best BN fit r2   loss, frozen so far   folded into")
    into = {layer.name: ", ".join(layer.into) or layer.reason for layer in fold.layers}
    for step in steps:
        fit = report.layers[step.name].affine_fit.r2
        print(f"{step.name:32} {fit:14.3f} {step.effect.loss.mean:21.3f}   {into.get(step.name, '-')}")


main()
