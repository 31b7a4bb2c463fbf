"""The share of the variance that the position explains, with [CLS] and [SEP] and without them.

Run: python examples/special_tokens.py [MODEL] [FILE]   (by default: demo, built-in sentences)
"""

import sys
from pathlib import Path

import normscope
from normscope.data.sample_sentences import SENTENCES


def main() -> None:
    """Measure one model twice on the same texts, with special tokens and without."""
    model = sys.argv[1] if len(sys.argv) > 1 else "demo"
    texts = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines() if len(sys.argv) > 2 else SENTENCES
    included = normscope.inspect(model, texts)
    excluded = normscope.inspect(model, texts, batching=normscope.Batching(special_tokens="exclude"))
    print(f"{'what position explains':44} with special tokens   without")
    for name, layer in included.layers.items():
        shares = [report.layers[name].explained for report in (included, excluded)]
        cells = [f"{100 * e.position.epsilon2:.1f}%" if e else "-" for e in shares]
        print(f"{layer.name:44} {cells[0]:>19} {cells[1]:>9}")


main()
