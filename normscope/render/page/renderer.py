"""Renders a chart from standard input to a picture on standard output, in its own process.

The renderer ends its process where memory does not suffice: then only this one.
"""

import json
import sys

import vl_convert

if __name__ == "__main__":
    kind, version, scale = sys.argv[1:]
    given = json.load(sys.stdin)
    options = {"vl_version": version, "config": given["config"]}
    if kind == "svg":
        drawn = vl_convert.vegalite_to_svg(given["spec"], **options).encode()
    else:
        drawn = vl_convert.vegalite_to_png(given["spec"], scale=float(scale), **options)
    sys.stdout.buffer.write(drawn)
