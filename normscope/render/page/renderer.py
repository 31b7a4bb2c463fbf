"""A program that reads a chart from standard input and writes its picture to standard output.

`vega` runs it as a process of its own: vl_convert aborts its process when memory runs out. It imports nothing
else, to start fast.
"""

import json
import sys

import vl_convert

if __name__ == "__main__":
    kind, version, scale = sys.argv[1:]
    chart = json.load(sys.stdin)
    options = {"vl_version": version, "config": chart["config"]}
    if kind == "svg":
        picture = vl_convert.vegalite_to_svg(chart["spec"], **options).encode()
    else:
        picture = vl_convert.vegalite_to_png(chart["spec"], scale=float(scale), **options)
    sys.stdout.buffer.write(picture)
