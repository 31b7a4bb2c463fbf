"""`why` on planted facts: where a claim is made true or false by construction, the verdict follows."""

import json
import math
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from rich.cells import cell_len
from typer.testing import CliRunner

import normscope
from normscope.analyses.why import analysis as why_scan
from normscope.analyses.why import nulls, scale_effects
from normscope.analyses.why.evidence import LayerRows
from normscope.analyses.why.findings import Material, findings
from normscope.analyses.why.measures import ExpectedNoise, Sampling, measured
from normscope.analyses.why.scale_effects import ScaleEffects
from normscope.cli.app import app
from normscope.cli.progress_bar import ProgressBar
from normscope.data.sample_sentences import SENTENCES
from normscope.engine.progress import Progress
from normscope.errors import ReportError, TextError, UsageError
from normscope.render.page.captions import claims
from normscope.render.terminal import Screen
from normscope.render.why import render_why, render_why_markdown, workload
from normscope.results.glossary.lookup import ENTRIES
from normscope.results.why import Finding, WhyReport
from normscope.statistics.jackknife import groups_of, replicates
from tests.capture.test_token_scopes import Lookup
from tests.support import models

D = 12
Lengths = list[int]


def tokens(
    lengths: Lengths, *, word: Any = None, position: float = 0.0, text: float = 0.0, seed: int = 0
) -> list[LayerRows]:
    """Random tokens of N texts at two layers, with an effect of the position and of the text planted."""
    dice = torch.Generator().manual_seed(seed)
    label = torch.tensor([n for n, length in enumerate(lengths) for _ in range(length)])
    at = torch.tensor([t for length in lengths for t in range(length)])
    layers = []
    for name in ("a", "b"):
        x = torch.randn(len(label), D, generator=dice)
        x += position * torch.randn(max(lengths), D, generator=dice)[at]
        x += text * torch.randn(len(lengths), D, generator=dice)[label]
        if word is not None:
            x += word(label, at)
        output = torch.randn(len(lengths), D, generator=dice, dtype=torch.float64)
        layers.append(LayerRows(name, 1e-5, x, label, at, torch.zeros(len(label), dtype=torch.bool), output))
    return layers


def material(lengths: Lengths, null: dict[str, float] | None = None, **planted: Any) -> Material:
    """What was measured of planted tokens; of the null, tokens of another seed with the `null` planted."""
    sampling = Sampling.of(torch.tensor(lengths), seed=0)
    layers = [measured(rows, sampling) for rows in tokens(lengths, **planted)]
    shuffled = [measured(rows, sampling) for rows in tokens(lengths, seed=99, **(null or {}))]
    return Material(
        sampling.lengths,
        sampling.weights,
        layers,
        {"feature": 0.1, "position": 0.2, "sequence": 0.3},
        {each.name: each for each in shuffled},
    )


def verdict(found: Any, claim: str) -> str:
    (one,) = (each for each in found if each.id == claim)
    return str(one.verdict)


EVEN, SPREAD = [10] * 64, [2 + n % 30 for n in range(192)]


def long(n: Any, _: Any) -> Any:
    """What a text says goes with its length."""
    return 0.3 * (n % 30)[:, None].float()


def balanced(n: Any, _: Any) -> Any:
    """Two kinds of text, as many of each at every length: batches by length have more even shares of them."""
    kinds = torch.where((n // 30) % 2 == 0, 1.0, -1.0)
    return (3 * kinds)[:, None]


@pytest.mark.parametrize(
    ("claim", "planted", "expected"),
    [
        ("1a", material(EVEN), "fails"),
        ("1a", material(SPREAD), "holds"),
        ("1b", material(SPREAD), "holds"),
        ("1b", material(SPREAD, word=lambda n, t: 30 * long(n, t)), "fails"),
        ("1b", material(EVEN), "not testable here"),  # no position is late
        ("1c", material(SPREAD), "undecided"),
        ("1c", material(SPREAD, word=long), "holds"),
        ("1c", material(SPREAD, word=balanced), "fails"),
        ("2", material(EVEN), "undecided"),
        ("2", material(EVEN, text=1.0), "holds"),
        ("2", material(EVEN, position=1.0), "fails"),
        ("2", material(EVEN, {"position": 1.0, "text": 1.0}, position=1.0, text=1.0), "undecided"),
        ("3", material(EVEN), "undecided"),
        ("3", material(EVEN, text=1.0), "holds"),
        ("3", material(EVEN, {"text": 1.0}, text=1.0), "undecided"),
        ("3", material(EVEN, {"text": 1.0}), "fails"),
        ("4", material(EVEN, text=1.0), "not testable here"),
        ("5", material(EVEN), "not testable here"),
        ("6", material(EVEN), "not testable here"),
    ],
)
def test_a_planted_fact_decides(claim: str, planted: Material, expected: str) -> None:
    assert verdict(findings("m", planted), claim) == expected


def with_scales(own: float, null: float) -> Material:
    """Correlations that stay: `own` and `null` more with the text's scale than with BatchNorm's."""

    def effects(more: float, seed: int) -> ScaleEffects:
        dice = torch.Generator().manual_seed(seed)
        feature = {name: 0.5 + 0.001 * torch.randn(33, generator=dice).double() for name in ("a", "b")}
        return ScaleEffects({name: values + more for name, values in feature.items()}, feature)

    return replace(material(EVEN), scales=effects(own, 0), shuffled_scales=effects(null, 1))


@pytest.mark.parametrize(
    ("own", "null", "expected"), [(0.1, 0.0, "holds"), (-0.1, 0.0, "fails"), (0.1, 0.1, "undecided")]
)
def test_claim_4_is_decided_against_shuffled_words(own: float, null: float, expected: str) -> None:
    assert verdict(findings("m", with_scales(own, null)), "4") == expected


def pictures(effect: float, count: int = 64) -> dict[str, ExpectedNoise]:
    """The noise of images of 36 pixels, alike within an image by `effect`."""
    rows = tokens([36] * count, text=effect, seed=5)
    weights = replicates(groups_of(count))
    return {each.name: ExpectedNoise.of_samples(each.by_text(), weights) for each in rows}


def test_noise_beside_images_decides_claims_5_and_6() -> None:
    """Images pool more elements, which lowers the noise at equal samples; pixels that are alike raise it."""
    found = {
        effect: findings("m", replace(material(EVEN, text=0.5), images=pictures(effect)))
        for effect in (0.0, 0.5, 3.0)
    }
    assert (verdict(found[0.0], "5"), verdict(found[0.0], "6")) == ("holds", "holds")
    assert (verdict(found[3.0], "5"), verdict(found[3.0], "6")) == ("fails", "fails")
    same = findings("m", replace(material([36] * 64, text=0.5), images=pictures(0.5)))
    assert (verdict(same, "5"), verdict(same, "6")) == ("undecided", "undecided")


def test_too_few_texts_for_batches_decide_nothing_about_them() -> None:
    found = findings("m", material([5] * 9))
    assert {verdict(found, claim) for claim in ("1b", "1c", "5", "6")} == {"not testable here"}


def test_every_number_has_its_entry_and_every_command_the_model() -> None:
    for found in findings("my model", replace(material(SPREAD), images=pictures(1.0))):
        assert {evidence.metric for evidence in found.evidence} <= set(ENTRIES)
        assert found.decided_by is None or found.decided_by == found.evidence[0].name
        assert "'my model'" in found.more
        assert len({evidence.name for evidence in found.evidence}) == len(found.evidence) <= 9


# Models


class Letters(Lookup):
    """A tokenizer of single letters, spaces left out, that knows what its tokens are called."""

    def __call__(self, texts: Any, **options: Any) -> dict[str, Any]:
        bare = texts.replace(" ", "") if isinstance(texts, str) else [text.replace(" ", "") for text in texts]
        return super().__call__(bare, **options)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [chr(number + 89) if number > 7 else chr(number - 1) for number in ids]


def bert(scale: float = 1.0) -> Any:
    """A small random BERT whose position embedding is scaled."""
    model = models.bert(max_position_embeddings=64)
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight.mul_(scale)
        model.bert.embeddings.word_embeddings.weight.mul_(20)
    return model


def texts(seed: int = 0, count: int = 64) -> list[str]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 24, count)
    return [" ".join(generator.choice([*"abcdefghijklmnopqrstuvwxyz"], n)) for n in lengths]


def tried(model: Any, given: list[str], **options: Any) -> WhyReport:
    tokenizer: Any = Letters()
    return normscope.why(model, given, tokenizer=tokenizer, **options)


@pytest.mark.parametrize("scale", [1.0, 400.0])
def test_independent_words_give_no_verdict_on_words(scale: float) -> None:
    """However much the position explains: the model's own code of it does not make words a feature."""
    found = tried(bert(scale), texts()).claims
    assert {verdict(found, "2"), verdict(found, "3")} == {"undecided"}
    (claim,) = (each for each in found if each.id == "2")
    assert (claim.evidence[2].number.value > 0.5) == (scale > 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_independent_words_give_no_verdict_against_the_article(seed: int) -> None:
    found = tried(bert(), texts(seed, 96)).claims
    assert [each.id for each in found if each.verdict == "fails"] == []
    assert verdict(found, "1b") != "not testable here" != verdict(found, "4")


def test_words_that_are_fixed_by_their_position_fail_claim_2() -> None:
    lengths = np.random.default_rng(0).integers(6, 24, 64)
    found = tried(bert(), [" ".join("abcdefghijklmnopqrstuvwxyz"[:n]) for n in lengths]).claims
    assert verdict(found, "2") == "fails"


def test_texts_of_one_word_each_hold_claims_2_and_3() -> None:
    lengths = np.random.default_rng(0).integers(6, 24, 64)
    found = tried(
        bert(), [" ".join("abcdefghijklmnopqrstuvwxyz"[i % 26] * n) for i, n in enumerate(lengths)]
    ).claims
    assert (verdict(found, "2"), verdict(found, "3")) == ("holds", "holds")


def test_texts_with_the_same_words_in_other_orders_fail_claim_3() -> None:
    """They are more alike than texts of random words: the text explains less than where nothing is there."""
    dice = np.random.default_rng(0)
    found = tried(bert(), [" ".join(dice.permutation([*"abcdefghij"])) for _ in range(64)]).claims
    assert verdict(found, "3") == "fails"


def numbers(found: tuple[Finding, ...]) -> list[float]:
    return [v for f in found for e in f.evidence for v in (e.number.value, e.number.low, e.number.high)]


def test_numbers_follow_from_the_seed_and_not_from_the_batches() -> None:
    one, eight, again = (
        numbers(tried(bert(), texts(), batching=normscope.Batching(batch_size=size)).claims)
        for size in (1, 8, 8)
    )
    np.testing.assert_allclose(one, eight, rtol=2e-3, atol=2e-4)
    assert eight == again
    assert eight != numbers(tried(bert(), texts(), seed=1).claims)


def test_memory_bounds_what_is_kept_and_it_is_said() -> None:
    token = 6 * (32 * 4 + 17)  # 32 float32 and labels at each of six layers
    report = tried(bert(), texts(), table_memory=200 * token)
    assert 2 <= report.kept_texts < 40
    assert any("more would take over" in warning for warning in report.warnings)
    assert tried(bert(), texts(), samples=20).kept_texts == 20
    with pytest.raises(UsageError, match="table memory of 100 bytes; expected at least"):
        tried(bert(), texts(), table_memory=100)


def test_repeated_texts_are_one_text_each() -> None:
    given = texts()
    once, twice = tried(bert(), given), tried(bert(), [text for text in given for _ in range(3)])
    assert numbers(once.claims) == pytest.approx(numbers(twice.claims), rel=2e-3, abs=2e-4, nan_ok=True)
    assert (twice.kept_texts, twice.run.texts, twice.run.skipped_texts) == (64, 64, 128)
    assert any(
        "128 texts that repeat an earlier one exactly were left out" in note for note in twice.warnings
    )


def test_as_many_texts_are_shuffled_as_are_kept_up_to_512(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer texts than are kept, the choice of their words moves claims 2 and 3. Claim 4 takes 32."""
    shuffled, scaled = [], []
    null, effects = nulls.shuffled, scale_effects.scale_effects

    def shuffle(texts: Any, *rest: Any, **options: Any) -> Any:
        shuffled.append(len(texts))
        return null(texts, *rest, **options)

    def scale(loaded: Any, texts: Any, *rest: Any) -> Any:
        scaled.append(len(texts))
        return effects(loaded, texts, *rest)

    monkeypatch.setattr(nulls, "shuffled", shuffle)
    monkeypatch.setattr(scale_effects, "scale_effects", scale)
    report = tried(bert(), texts(count=260))
    assert report.kept_texts == report.null_texts == 260
    assert (shuffled, scaled) == ([260], [32, 32, 8])
    assert len(nulls.spaced(range(600))) == 512


def test_one_text_cannot_be_compared() -> None:
    with pytest.raises(TextError, match="1 text to compare; expected at least two"):
        tried(bert(), ["abc"])


def test_shared_layers_and_a_decoder_are_measured_too() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    config.decoder_start_token_id = 0
    report = tried(models.spread_norms(transformers.T5Model(config)), texts())
    assert [finding.id for finding in report.claims] == ["1a", "1b", "1c", "2", "3", "4", "5", "6"]
    assert not any("have no part in this" in warning for warning in report.warnings)


def with_huge_z(model: Any) -> Any:
    """The word z has by far the largest tokens."""
    (z,) = Letters()("z")["input_ids"]
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[z] *= 50
    return model


def test_tokens_far_larger_than_the_rest_of_their_text_fail_claim_4() -> None:
    """The scale of a text follows such a token. There are two kinds of text; each has one z."""
    dice = np.random.default_rng(0)
    given = []
    for i in range(64):
        words = dice.choice([*("abcdefghijklm" if i % 2 else "nopqrstuvwxy")], dice.integers(6, 24))
        words[dice.integers(0, len(words))] = "z"
        given.append(" ".join(words))
    assert verdict(tried(with_huge_z(bert()), given).claims, "4") == "fails"


class Bare(torch.nn.Module):
    """A BERT in a module of the user's own, which no configuration makes; `states` lets its states out."""

    def __init__(self, model: Any, *, states: bool = True) -> None:
        super().__init__()
        self.model, self.states = model, states

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.model(input_ids, attention_mask).last_hidden_state
        return hidden if self.states else hidden[:, 0]


def test_claim_4_needs_no_untrained_copy() -> None:
    """It is only shown: the null is shuffled words."""
    model = bert().bert
    alone, bare = tried(model, texts()), tried(Bare(model), texts())
    of_4 = [next(each for each in report.claims if each.id == "4") for report in (alone, bare)]
    copy = "the same in an untrained copy"
    assert [any(e.name == copy for e in claim.evidence) for claim in of_4] == [True, False]
    assert of_4[1].verdict == of_4[0].verdict != "not testable here"
    deciding = [[layer.number.value for layer in claim.evidence[0].layers] for claim in of_4]
    assert deciding[1] == pytest.approx(deciding[0], abs=1e-4)
    assert any("claim 4 is without its line on an untrained copy: the class" in w for w in bare.warnings)
    assert not any("untrained copy" in warning for warning in alone.warnings)


def test_a_model_without_hidden_states_leaves_only_claim_4_untested() -> None:
    found = tried(Bare(bert().bert, states=False), texts()).claims
    (claim,) = (each for each in found if each.id == "4")
    assert claim.verdict == "not testable here"
    assert "gives no last hidden state" in claim.rule
    assert verdict(found, "3") != "not testable here"


# The real one, and what is shown


@pytest.fixture(scope="module")
def report() -> WhyReport:
    return normscope.why("demo", SENTENCES)


def test_the_demo_on_the_built_in_sentences(report: WhyReport) -> None:
    assert report.kept_texts == len(SENTENCES)
    assert {verdict(report.claims, claim) for claim in ("1a", "1b", "2", "3")} == {"holds"}
    shown = [" ".join(tokens) for tokens in report.pooled.texts]
    assert any("\u4e00" <= letter <= "\u9fff" for text in shown for letter in text)
    assert shown[0].startswith("[CLS] it rained again")
    layer = normscope.inspect("demo", SENTENCES, batching=normscope.Batching(special_tokens="exclude"))
    explained = [x.explained.position.epsilon2 for x in layer.layers.values() if x.explained]
    (claim,) = (finding for finding in report.claims if finding.id == "2")
    assert claim.evidence[2].number.value == pytest.approx(float(np.median(explained)), rel=1e-4)


def test_it_comes_back_equal_from_json(report: WhyReport) -> None:
    assert WhyReport.from_dict(json.loads(report.to_json())) == report
    with pytest.raises(ReportError, match="not a report on the claims"):
        WhyReport.from_dict({"schema": "x"})


def test_the_intervals_of_few_texts_are_of_numbers_that_can_be(one_block: Path) -> None:
    found = normscope.why(one_block, SENTENCES[:12])
    numbers = {(e.metric, e.name): e.number for finding in found.claims for e in finding.evidence}
    bounds = {
        "likeness_kept": (-1, 1),
        "explained.position.epsilon2": (-math.inf, 1),
        "late_reach": (0, 1),
    }
    assert bounds.keys() <= {metric for metric, _ in numbers}
    for (metric, name), number in numbers.items():
        least, most = bounds.get(metric, (-math.inf, math.inf))
        inside = not number.low < least and not number.high > most
        assert inside, (name, number)


def test_one_text_is_one_text(report: WhyReport) -> None:
    one = replace(report, run=replace(report.run, texts=1, tokens=1), kept_texts=1)
    assert workload(one)[:2] == ["1 text", "1 token"]
    assert claims(report).startswith("Of the 8 claims: 4 hold, 2 undecided, 2 not testable here")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_fit_and_data_is_shown_not_obeyed(report: WhyReport, width: int) -> None:
    plain = report.to_dict()
    plain["pooled"]["texts"][0][1] = "\x1b[31m[red]|<b>"
    plain["model"]["id"] = "\x1b[2J[bold]x"
    hostile = WhyReport.from_dict(plain)
    plain["claims"][0]["verdict"] = plain["claims"][1]["id"] = "\x1b[2J"
    text, verbose = (
        render_why(WhyReport.from_dict(plain), verbose=v, screen=Screen(width)) for v in (False, True)
    )
    assert max(map(cell_len, (text + verbose).splitlines())) <= width
    text = render_why(hostile, screen=Screen(width))
    for shown in (text, verbose, render_why_markdown(hostile)):
        assert all(c == "\n" or c.isprintable() for c in shown)
        assert "\\x1b[2J" in shown.replace("\\\\", "\\").replace("\\[", "[")
    for finding in report.claims:
        assert finding.verdict.upper() in text


def test_what_decides_is_shown_in_few_lines_and_all_numbers_on_demand(report: WhyReport) -> None:
    short, long = (render_why(report, verbose=verbose, screen=Screen(100)) for verbose in (False, True))
    assert len(short.splitlines()) < 55 < len(long.splitlines())
    (claim,) = (finding for finding in report.claims if finding.id == "4")
    deciding, *others = (" ".join(evidence.name.split()[:4]) for evidence in claim.evidence)
    assert deciding in short
    assert "of 13 layers over 0" in short
    assert all(name in long for name in (deciding, *others))
    assert "in an untrained copy" not in short
    assert "--verbose" in short
    assert "it needs a vision model: --beside MODEL --image FILE..." in short


@pytest.mark.parametrize("width", [60, 80, 400])
def test_a_command_on_several_lines_is_one_to_a_shell(report: WhyReport, width: int) -> None:
    words = [
        "normscope",
        "batches",
        "demo",
        "--file",
        "my texts.txt",
        "--limit",
        "7",
        "it's",
        'a "b"',
        "\u4e16" * 20,
    ]
    long = replace(report, claims=(replace(report.claims[0], more=shlex.join(words)),))
    text = render_why(long, verbose=True, screen=Screen(width))
    after = text.partition("    more: ")[2]
    (command,) = re.findall(r"\A((?:.*\\\n)*.*)\n", after)
    assert shlex.split(command.replace("\\\n", "")) == words
    assert (width == 400) == ("\n" not in command)
    assert max(map(cell_len, command.splitlines())) <= width


def test_an_option_stays_on_one_line_with_its_value(report: WhyReport) -> None:
    more = "normscope inspect demo --special-tokens exclude --json --max-length 64 --file corpus.txt"
    long = replace(report, claims=(replace(report.claims[0], more=more),))
    text = render_why(long, verbose=True, screen=Screen(80))
    assert "--special-tokens exclude --json \\\n          --max-length 64 --file corpus.txt\n" in text


def test_pairs_of_layers_are_not_called_layers(report: WhyReport) -> None:
    (finding,) = (each for each in report.claims if each.id == "2")
    first, *others = finding.evidence
    pairs = replace(first, layers=tuple(replace(each, layer=f"{each.layer} / conv") for each in first.layers))
    beside = replace(report, claims=(replace(finding, evidence=(pairs, *others)),))
    assert f"of {len(pairs.layers)} pairs of layers over 0, " in render_why(beside, screen=Screen(200))


@pytest.mark.parametrize("format", ["table", "json", "markdown"])
def test_the_command(one_block: Path, tmp_path: Path, format: str) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES[:16]))
    words = ["why", one_block, "-f", tmp_path / "texts.txt", "--format", format, "-q"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.stderr
    if format == "json":
        data = json.loads(result.stdout)
        assert data["schema"] == "normscope.why/1"
        assert data["kept_texts"] == 16
        own = shlex.join(["--file", str(tmp_path / "texts.txt")])
        assert all(claim["more"].endswith(f" {own}") for claim in data["claims"])
    else:
        assert "HOLDS" in result.stdout
        assert "What BatchNorm pools" in result.stdout


def test_texts_without_a_word_have_no_part_in_what_texts_mean(one_block: Path) -> None:
    zero_width = "\u200b"
    texts = ["one fish", zero_width, "two fish", "red fish", "blue", 2 * zero_width]
    assert normscope.why(one_block, texts).kept_texts == 6
    with pytest.raises(TextError, match="0 texts with a token that is not special; expected at least two"):
        normscope.why(one_block, [zero_width, 2 * zero_width])


@pytest.mark.parametrize(("option", "value"), [("--samples", "-1"), ("--seed", "1" * 23), ("--seed", "-1")])
@pytest.mark.parametrize("command", ["why", "batches", "swap"])
def test_numbers_out_of_range_are_wrong_usage(command: str, option: str, value: str) -> None:
    if (command, option) != ("swap", "--samples"):
        result = CliRunner().invoke(app, [command, "no-model", "one", "two", option, value])
        assert result.exit_code == 2
        assert f"{option[2:]} is {value}; expected a whole number from" in result.stderr


def test_the_analysis_is_told_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal its clock goes on, and the run's seconds hold it."""
    real, pause = findings, 0.3

    def slow(*given: Any) -> Any:
        time.sleep(pause)
        return real(*given)

    monkeypatch.setattr(why_scan, "findings", slow)
    told: list[Progress] = []
    bar = ProgressBar("demo", shown=True)

    def progress(now: Progress) -> None:
        told.append(now)
        bar(now)

    with bar:
        report = tried(bert(), texts(count=12), progress=progress)
        (task,) = bar._bar.tasks
        assert (task.description, task.finished) == ("analysing", False)
    assert [now.stage for now in told][-2:] == ["run", "analysis"]
    assert report.run.seconds >= told[-1].seconds + pause
