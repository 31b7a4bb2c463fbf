"""Print the sentences of Python's own documentation, one a line: a corpus that every Python brings.

Run: python examples/corpus.py > corpus.txt
"""

from _data import sentences

if __name__ == "__main__":
    print(*sentences(), sep="\n")
