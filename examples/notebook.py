# %% [markdown]
# # A first look at the norms of a model
# Cells in the percent format: open it in VS Code, PyCharm or, with jupytext, in Jupyter; or run it as a
# script, `python examples/notebook.py`. A result is shown as a table in a notebook, and as a line in
# a script.

# %%
import builtins

import normscope
from normscope.data.sample_sentences import SENTENCES

show = getattr(builtins, "display", print)
texts = SENTENCES[:40]

# %% [markdown]
# Which norms are there, and where? Only the configuration is read.

# %%
show(normscope.list_layers("demo", layers=["embeddings*", "*.5.*"]))

# %% [markdown]
# One run over texts: LayerNorm's numbers next to BatchNorm's, at every norm.

# %%
report = normscope.inspect("demo", texts)
show(report)

# %% [markdown]
# Every number is there as numpy. How much of the variance does the position explain, and which features have
# the largest variance for BatchNorm?

# %%
last = report.layers["encoder.layer.5.output.LayerNorm"]
if last.explained and last.feature:
    print(f"the position explains {last.explained.position.epsilon2:.1%}")
    print("largest variance: features", last.feature.variance.argsort()[:-4:-1].tolist())

# %% [markdown]
# Are BatchNorm's statistics the same on other texts? Two reports compared, the largest change first.

# %%
other = normscope.inspect("demo", [text.upper().replace(" ", "  ") + "?" for text in texts])
show(normscope.compare(report, other))

# %% [markdown]
# What would batches of these texts be like?

# %%
show(normscope.batch_noise("demo", texts, drawing=normscope.Drawing(sizes=(4, 8))))

# %% [markdown]
# A page to keep, with all charts: `normscope.write_page([report], "page.html")`. Or the numbers:

# %%
print(f"{len(report.to_json()):,} characters of JSON")
